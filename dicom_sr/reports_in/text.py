"""Free text as senders write it (plain, HTML, RTF) -> plain text; and into sections where it has headings."""

import re
from html.parser import HTMLParser

from striprtf.striprtf import rtf_to_text

from config import Reason
from dicom_sr.reports_in.parts import ReportError, Section

_HTML = re.compile(r"<(?:!doctype|html|body|br|p|div|b|i|span|table|ul|ol)\b[^<>]{0,200}/?>", re.IGNORECASE)
_BLOCKS = frozenset(
    {"p", "div", "br", "tr", "li", "h1", "h2", "h3", "h4", "h5", "h6", "table", "ul", "ol", "section", "title"}
)
_UNSEEN = frozenset({"script", "style", "head"})
_HEADINGS = (
    # English, German, French, Spanish, Italian, Dutch, Portuguese
    "findings", "impression", "conclusion", "technique", "comparison", "indication", "clinical indication",
    "clinical information", "clinical history", "history", "recommendation", "recommendations", "procedure",
    "examination", "exam", "addendum", "summary",
    "befund", "beurteilung", "klinische angaben", "fragestellung", "indikation", "technik", "zusammenfassung",
    "résultats", "résultat", "conclusions", "renseignements cliniques", "hallazgos", "impresión", "conclusión",
    "técnica", "indicación", "reperti", "referto", "conclusioni", "quesito clinico", "tecnica",
    "bevindingen", "conclusie", "klinische gegevens", "achados", "impressão", "conclusão",
)  # fmt: skip
_HEADING = re.compile(
    rf"^[ \t*#]*(?P<title>{'|'.join(sorted(map(re.escape, _HEADINGS), key=len, reverse=True))})[ \t*]*"
    r"(?:[:：][ \t*]*(?P<rest>.*)|$)",
    re.IGNORECASE | re.MULTILINE,
)
"""A line that is a heading, or begins with one and a colon."""


def plain(text: str) -> str:
    """Text without markup and control characters, its lines trimmed, at most one empty line in a row.

    Raises ReportError for RTF that cannot be read.
    """
    if text.lstrip("\ufeff\0 \r\n\t").startswith("{\\rtf"):
        text = _without_rtf(text)
    elif _HTML.search(text):
        text = html_to_text(text)
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\x0c", "\n").replace("\xa0", " ")
    text = "".join(c for c in text if c in "\n\t" or c.isprintable())
    lines = (re.sub(r"[ \t]+", " ", line).strip() for line in text.split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def split(title: str, text: str) -> list[Section]:
    """`text` as one section `title`, or as several where its lines have headings that reports use."""
    found = list(_HEADING.finditer(text))
    if not found:
        return [Section(title, text)] if text else []
    sections = [Section(title, text[: found[0].start()].strip())]
    for at, match in enumerate(found):
        end = found[at + 1].start() if at + 1 < len(found) else len(text)
        body = f"{match['rest'] or ''}{text[match.end() : end]}"
        sections.append(Section(match["title"].capitalize(), body.strip()))
    return [one for one in sections if one.text]


def decode(data: bytes) -> str:
    """Text of which nobody said the character set: UTF-8 (or what its byte order mark says), else Windows-1252."""
    for mark, encoding in ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if data.startswith(mark):
            return data.decode(encoding, "replace")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")


def html_to_text(markup: str) -> str:
    """The text of HTML or XHTML, a line a block; scripts, styles and the head are left out. Any input is taken."""
    parser = _Text()
    parser.feed(markup)
    parser.close()
    return "".join(parser.pieces)


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self._unseen = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        self._unseen += tag in _UNSEEN
        if tag in _BLOCKS:
            self.pieces.append("\n")
        elif tag in ("td", "th"):
            self.pieces.append("\t")

    def handle_endtag(self, tag: str) -> None:
        self._unseen -= tag in _UNSEEN and self._unseen > 0
        if tag in _BLOCKS:
            self.pieces.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._unseen:
            self.pieces.append(re.sub(r"[\r\n]+", " ", data))


def _without_rtf(text: str) -> str:
    try:
        return str(rtf_to_text(text, errors="replace"))  # type: ignore[no-untyped-call]
    except (ValueError, KeyError, IndexError, LookupError) as error:
        raise ReportError(Reason.REPORT_DAMAGED, f"RTF that cannot be read ({type(error).__name__})") from error
