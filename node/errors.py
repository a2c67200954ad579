"""`CommandError`: what stops a command, for the person at the terminal."""


class CommandError(Exception):
    """A command cannot go on: the cause and the cure, a line each. The CLI prints it and exits with status 2."""

    def __init__(self, cause: str, cure: str) -> None:
        super().__init__(f"{cause} {cure}")
        self.cause = cause
        self.cure = cure
