"""Chat and API: a message that cannot be used is answered with the reason, and the session goes on."""

import copy
from collections.abc import Iterator
from typing import Any

from ...core.contract import PLACEHOLDER, TS_END, TS_START
from ...core.errors import ChatTSError
from ..compat import patch


_FIX = f"Remove {TS_START} and {TS_END}: series reach chat and API from Python only, as audios=[[1.0, 2.0], ...]"


def check_chat(engine: Any, messages: list[dict[str, Any]], system: Any, tools: Any, *media: Any) -> None:
    """Raise a :class:`ChatTSError` for a chat that a ChatTS model cannot read; other models are left alone.

    Args:
        engine: the host's, with template and processor.
        messages, system, tools: as for its ``chat``.
        media: images, videos and audios, the last being the series; each None or a list.
    """
    from ..rows.mm_plugin import ChatTSPlugin

    if not isinstance(getattr(getattr(engine, "template", None), "mm_plugin", None), ChatTSPlugin):
        return

    for name, text in (("system prompt", system), ("tools", tools)):
        if TS_START in (text or "") or TS_END in (text or ""):
            raise ChatTSError(f"{PLACEHOLDER} in the {name}", fix=_FIX)

    messages = [{**message, "content": message["content"] or ""} for message in copy.deepcopy(messages)]
    images, videos, audios = (list(items or []) for items in media)
    plugin, processor = engine.template.mm_plugin, engine.processor
    try:
        plugin.process_messages(plugin.name_series(messages, len(audios)), images, videos, audios, processor)
    except ChatTSError as err:
        typed = PLACEHOLDER in err.what or TS_START in err.what
        raise ChatTSError(err.what, err.where, _FIX if typed and not audios else err.fix) from None


def refuse_before_generating(engine: Any, name: str) -> None:
    """``chat`` and ``stream_chat`` look at a chat first: an error in the host's thread would never be heard of."""

    def build(original: Any) -> Any:
        def chat(
            self: Any, messages: Any, system: Any = None, tools: Any = None, *media: Any, **kwargs: Any
        ) -> Any:  # a coroutine or an asynchronous generator
            named = [kwargs.get(key) for key in ("images", "videos", "audios")[len(media) :]]
            check_chat(self, messages, system, tools, *media, *named)
            return original(self, messages, system, tools, *media, **kwargs)

        return chat

    patch(engine, name, build)


def go_on_after_refusal(module: Any, name: str) -> None:
    """``llamafactory-cli chat`` shows the reason as the answer and forgets the message."""

    def build(original: Any) -> Any:
        def run_chat() -> None:
            plain = module.ChatModel

            class Session(plain):  # type: ignore[misc, valid-type]  # a class of the host, known when it runs
                def stream_chat(self, messages: list[dict[str, Any]], *args: Any, **kwargs: Any) -> Iterator[str]:
                    try:
                        yield from super().stream_chat(usable(messages), *args, **kwargs)
                    except ChatTSError as err:
                        messages[-1][_REFUSED] = True
                        yield f"{err} (This message is left out of the conversation.)"

            module.ChatModel = Session
            try:
                original()
            finally:
                module.ChatModel = plain

        return run_chat

    patch(module, name, build)


_REFUSED = "refused"


def usable(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the turns of a session without refused messages and their answers, and without marks in answers."""
    kept = []
    refused = False
    for message in messages:
        if message["role"] == "user":
            refused = _REFUSED in message

        if refused:
            continue

        if message["role"] == "assistant":  # what the model wrote itself stands for no series
            content = message["content"].replace(TS_START, "").replace(TS_END, "")
            message = {**message, "content": content}

        kept.append(message)

    return kept


class ReadRequest:
    """A request of the API together with what the host read from it: reading it twice would change it."""

    def __init__(self, request: Any, read: tuple) -> None:
        self.request, self.read = request, read

    def __getattr__(self, name: str) -> Any:
        return getattr(self.request, name)


def read_request_once(api: Any, name: str) -> None:
    """``_process_request`` gives back what it has read already."""

    def build(original: Any) -> Any:
        def _process_request(request: Any) -> tuple:
            return request.read if isinstance(request, ReadRequest) else original(request)

        return _process_request

    patch(api, name, build)


def answer_400(api: Any, name: str) -> None:
    """Both kinds of answer begin with a look at the request; one that cannot be used is a 400 with the reason.

    A stream has sent its status before it asks the model, so it has to be known earlier.
    """

    def build(original: Any) -> Any:
        def respond(request: Any, chat_model: Any) -> Any:  # a coroutine or an asynchronous generator
            from ..rows.mm_plugin import ChatTSPlugin

            if not isinstance(chat_model.engine.template.mm_plugin, ChatTSPlugin):
                return original(request, chat_model)

            messages, system, tools, images, videos, audios = read = api._process_request(request)
            try:
                if audios:
                    raise ChatTSError("ChatTS hears no audio", fix="Remove the audio_url parts")

                check_chat(chat_model.engine, messages, system, tools, images, videos, None)
            except ChatTSError as err:
                raise api.HTTPException(status_code=400, detail=str(err)) from None

            return original(ReadRequest(request, read), chat_model)

        return respond

    patch(api, name, build)
