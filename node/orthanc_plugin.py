"""The plugin of fVLM Node for Orthanc (Python plugin 3.1 or newer): `"PythonScript": "/path/to/orthanc_plugin.py"`.

It tells the node that a series has become stable, shows in Orthanc Explorer how the node stands with a CT series, and
passes on that a person wants one read. It reads no pixel and holds no image: the node fetches images by itself, from
where its own settings say, and keeps count of what it has seen; whatever this plugin loses, the node finds.

Nothing here waits in a callback of Orthanc: callbacks put a few words into a bounded queue, one thread talks to the
node. Only Python's standard library and the `orthanc` module are used.

Licence boundary: Orthanc and its Python plugin are under the (A)GPL, and this file runs inside Orthanc. It is offered
under Apache-2.0, which may be combined with them, and is complete source. It shares no code with the node and imports
nothing of it; the two are separate programs that speak HTTP.

In Orthanc's configuration (docs/operations/orthanc.md):

    "FvlmNode": {"Url": "http://127.0.0.1:8113", "Source": "main", "Token": "file:/etc/orthanc/fvlm-token"}
"""

import json
import os
import queue
import threading
import time
import urllib.error
import urllib.request
from collections import OrderedDict
from typing import Any

import orthanc

State = dict[str, Any]
_QUEUE = 256
"""Messages that may wait; a message more is refused (a person is told so) or left out (the node finds it by itself)."""
_KNOWN = 2000
"""Series whose state is remembered."""
_FRESH_S = 2.0
"""A state that is older is asked for again when somebody looks, seconds."""
_TIMEOUT_S = 10.0
_LONGEST_ANSWER = 65536
_UNASKED = {"state": "ASKING", "reason": "", "detail": "", "job": None, "console": ""}
_AWAY = {"state": "NODE_AWAY", "reason": "", "detail": "fVLM Node does not answer", "job": None, "console": ""}


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """The node redirects nowhere; nobody else may."""

    def redirect_request(self, *_args: Any, **_more: Any) -> None:
        return None


class Node:
    """The thread that talks to the node, and what it said last."""

    def __init__(self, url: str, source: str, token: str) -> None:
        self._base = f"{url.rstrip('/')}/orthanc/{source}/"
        self._token = token
        self._queue: queue.Queue[tuple[str, str, str | None]] = queue.Queue(_QUEUE)
        self._states: OrderedDict[str, tuple[State, float]] = OrderedDict()
        self._asked: set[str] = set()
        self._lock = threading.Lock()
        self._nudged = False
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), NoRedirect())
        self.reachable: bool | None = None
        threading.Thread(target=self._run, name="fvlm-node", daemon=True).start()

    @property
    def waiting(self) -> int:
        return self._queue.qsize()

    def nudge(self) -> None:
        """There is something new. One such message waits at most."""
        with self._lock:
            if self._nudged:
                return
            self._nudged = self._put("POST", "changed", None)

    def read(self, series: str, uid: str) -> bool:
        """A person wants the series read; False if too much waits."""
        return self._put("POST", f"series/{series}/{uid}", series)

    def state(self, series: str, uid: str) -> State:
        """What is known now; asked again if that is old."""
        with self._lock:
            state, at = self._states.get(series, (_UNASKED, -_FRESH_S))
            fresh = time.monotonic() - at < _FRESH_S
            if not fresh and series not in self._asked and self._put("GET", f"series/{series}/{uid}", series):
                self._asked.add(series)
        return state

    def _put(self, method: str, path: str, series: str | None) -> bool:
        try:
            self._queue.put_nowait((method, path, series))
        except queue.Full:
            return False
        return True

    def _run(self) -> None:
        while True:
            method, path, series = self._queue.get()
            with self._lock:
                if series is None:
                    self._nudged = False
            try:
                answer = self._call(method, path)
                self._tell(True, "")
            except urllib.error.HTTPError as error:
                self._tell(True, "")
                orthanc.LogWarning(f"fVLM Node answers HTTP {error.code}")
                detail = f"fVLM Node answers HTTP {error.code}: see docs/operations/orthanc.md"
                answer = dict(_AWAY, state="NODE_REFUSES", detail=detail)
                error.close()
            except (OSError, ValueError) as error:  # away, or it answers with something else
                self._tell(False, type(error).__name__)
                answer = _AWAY
            if series is not None:
                with self._lock:
                    if method == "GET":
                        self._asked.discard(series)
                    self._states[series] = (answer, time.monotonic())
                    self._states.move_to_end(series)
                    while len(self._states) > _KNOWN:
                        self._states.popitem(last=False)

    def _call(self, method: str, path: str) -> State:
        request = urllib.request.Request(self._base + path, b"" if method == "POST" else None, method=method)
        token = secret(self._token)
        if token:
            request.add_header("Authorization", "Bearer " + token)
        with self._opener.open(request, timeout=_TIMEOUT_S) as response:
            answer = json.loads(response.read(_LONGEST_ANSWER))
        return {key: answer.get(key) for key in _UNASKED}

    def _tell(self, reachable: bool, error: str) -> None:
        if self.reachable is not reachable:
            orthanc.LogWarning("fVLM Node answers" if reachable else f"fVLM Node does not answer ({error})")
        self.reachable = reachable


def secret(source: str) -> str:
    """What stands in `env:NAME` or `file:PATH`; empty for an empty source. Raises OSError."""
    kind, _, name = source.partition(":")
    if kind == "file":
        with open(name, encoding="ascii") as file:  # noqa: PTH123 - the script has no other helpers of ours
            return file.read().strip()
    return os.environ.get(name, "")


def on_change(change: int, _level: int, _resource: str) -> None:
    """Orthanc's callback: must not wait."""
    if change in (orthanc.ChangeType.STABLE_SERIES, orthanc.ChangeType.ORTHANC_STARTED):
        NODE.nudge()


def on_status(output: Any, _uri: str, **_request: Any) -> None:
    """GET /fvlm/status: whether the node answers, and how many messages wait."""
    answer(output, {"node": NODE.reachable, "waiting": NODE.waiting, "queue": _QUEUE})


def on_series(output: Any, _uri: str, **request: Any) -> None:
    """GET /fvlm/series/ID: how the node stands with it. POST /fvlm/series/ID/read: read it."""
    series, action = request["groups"][0], request["groups"][1]
    reading = action == "/read"
    if request["method"] != ("POST" if reading else "GET"):
        output.SendMethodNotAllowed("POST" if reading else "GET")
        return
    # A foreign page cannot send this header without asking first, which Orthanc does not allow.
    if reading and request["headers"].get("x-fvlm-node") != "read":
        output.SendHttpStatusCode(403)  # send the header X-Fvlm-Node: read
        return
    try:
        tags = json.loads(orthanc.RestApiGet("/series/" + series))["MainDicomTags"]
    except orthanc.OrthancException:
        output.SendHttpStatusCode(404)  # there is no such series
        return
    if tags.get("Modality", "").strip() != "CT":
        output.SendHttpStatusCode(409)  # it is no CT series
    elif reading and not NODE.read(series, tags["SeriesInstanceUID"]):
        output.SendHttpStatusCode(503)  # too much waits for fVLM Node; try again
    else:
        answer(output, NODE.state(series, tags["SeriesInstanceUID"]) if not reading else {"state": "ASKING"})


def answer(output: Any, content: State) -> None:
    output.AnswerBuffer(json.dumps(content), "application/json")


EXPLORER = """
$(document).on("pagebeforeshow", "#series", function() {
  var uuid = $.mobile.pageData.uuid, base = "../fvlm/series/" + uuid, until = 0, timer = 0;
  $("#fvlm-node").remove();
  function show(box, state) {
    var words = {ASKING: "asking \\u2026", NODE_AWAY: "fVLM Node does not answer", UNKNOWN: "not read",
                 WANTED: "asked for", NOT_FETCHED: "could not be fetched"};
    box.find("[data-fvlm=state]").text("fVLM: " + (words[state.state] || state.state) +
                                       (state.reason ? " (" + state.reason + ")" : ""))
       .attr("title", state.detail || "");
    var link = box.find("[data-fvlm=console]").toggle(/^https?:/.test(state.console || ""));
    if (/^https?:/.test(state.console || "")) { link.attr("href", state.console); }
  }
  function look(box) {
    if (!$.contains(document, box[0]) || !$("#series").is(":visible")) { return; }
    $.getJSON(base, function(state) {
      show(box, state);
      var resting = /^(UNKNOWN|NOT_FETCHED|REJECTED|COMMITTED|SENT|FAILED|QUARANTINED|SUPERSEDED)$/.test(state.state);
      timer = window.setTimeout(look, resting && Date.now() > until ? 15000 : 1500, box);
    });
  }
  $.getJSON(base, function(state) {   /* answered for CT series only */
    var box = $("<div id='fvlm-node' style='margin:.5em 0'>");
    var button = $("<a href='#' data-role='button' data-icon='search' data-theme='e'>").text("Read with fVLM");
    box.append(button);
    box.append($("<p data-fvlm='state' style='margin:.3em 1em'>"));
    box.append($("<a data-fvlm='console' target='_blank' rel='noopener' style='margin:0 1em'>")
       .text("Open in fVLM Node"));
    button.click(function(event) {
      event.preventDefault();
      until = Date.now() + 60000;
      $.ajax({url: base + "/read", type: "POST", headers: {"X-Fvlm-Node": "read"}}).done(function() {
        window.clearTimeout(timer);
        timer = window.setTimeout(look, 500, box);
      }).fail(function(answer) {
        show(box, {state: "could not be asked for: HTTP " + answer.status});
      });
    });
    $("#fvlm-node").remove();
    $("#series-info").after(box);
    button.button();
    show(box, state);
    look(box);
  });
});
"""

_settings = json.loads(orthanc.GetConfiguration()).get("FvlmNode", {})
NODE = Node(
    _settings.get("Url", "http://127.0.0.1:8113"), _settings.get("Source", "orthanc"), _settings.get("Token", "")
)
orthanc.RegisterOnChangeCallback(on_change)
orthanc.RegisterRestCallback("/fvlm/status", on_status)
orthanc.RegisterRestCallback("/fvlm/series/([0-9a-f-]{44})(|/read)", on_series)
orthanc.ExtendOrthancExplorer(EXPLORER)
