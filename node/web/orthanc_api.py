"""What the plugin of an Orthanc asks and tells: `/orthanc/SOURCE/…`. It names series, never an address."""

from collections.abc import Callable, Mapping

from sqlalchemy.exc import DBAPIError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from config import Settings
from ct.part10 import is_uid
from node.database import Records
from node.errors import CommandError
from node.orthanc_source.answers import ask_for, how_it_stands
from node.orthanc_source.client import is_orthanc_id
from node.orthanc_source.follower import Follower
from node.web.entry import who_asks


class OrthancApi:
    """For the Orthancs of the settings."""

    def __init__(self, settings: Settings, records: Records, followers: Mapping[str, Follower]) -> None:
        self._settings, self._records, self._followers = settings, records, followers

    def routes(self) -> list[Route]:
        """Of the whole application."""
        return [
            Route("/orthanc/{source}/changed", self.changed, methods=["POST"]),
            Route("/orthanc/{source}/series/{series}/{uid}", self.series, methods=["GET", "POST"]),
        ]

    async def changed(self, request: Request) -> Response:
        """Something is new there: the node looks at once. Raises UnauthorizedError."""
        follower = self._follower(request)
        if follower is None:
            return _unknown()
        follower.nudge()
        return JSONResponse({}, 202)

    async def series(self, request: Request) -> Response:
        """How a series stands; POST: read it. Raises UnauthorizedError."""
        follower = self._follower(request)
        source, series, uid = (request.path_params[name] for name in ("source", "series", "uid"))
        if follower is None or not is_orthanc_id(series) or not is_uid(uid):
            return _unknown()
        action: Callable[[str, str, str], Response] = self._read if request.method == "POST" else self._tell
        try:
            answer = await run_in_threadpool(action, source, series, uid)
        except (DBAPIError, CommandError):
            return JSONResponse({"error": "The database does not answer."}, 503)
        if request.method == "POST":
            follower.nudge()
        return answer

    def _tell(self, source: str, series: str, uid: str) -> Response:
        with self._records.reading() as session:
            return JSONResponse(how_it_stands(session, self._settings, source, series, uid).as_json())

    def _read(self, source: str, series: str, uid: str) -> Response:
        answer = ask_for(self._records, self._settings, source, series, uid)
        if answer is None:
            return JSONResponse({"error": "Too many series are waited for."}, 503)
        return JSONResponse(answer.as_json(), 202)

    def _follower(self, request: Request) -> Follower | None:
        """Raises UnauthorizedError."""
        name = request.path_params["source"]
        source = self._settings.orthancs.get(name)
        if source is None:
            return None
        if source.plugin_token:
            who_asks(request, {name: source.plugin_token})
        return self._followers.get(name)


def _unknown() -> Response:
    return JSONResponse({"error": "There is no such source or series; see `orthancs` in the settings."}, 404)
