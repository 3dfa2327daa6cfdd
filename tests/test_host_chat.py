"""A message that a ChatTS model cannot read: the chat goes on, the API answers 400 with the reason."""

import builtins

import pytest

from llamafactory_chatts.core.errors import ChatTSError


pytest.importorskip("fastapi"), pytest.importorskip("sse_starlette"), pytest.importorskip("httpx")


@pytest.fixture(scope="module")
def chat_model(tiny_base):
    from llamafactory.chat import ChatModel

    recipe = {"model_name_or_path": str(tiny_base), "template": "chatts", "max_new_tokens": 2, "do_sample": False}
    return ChatModel({**recipe, "infer_backend": "huggingface"})


@pytest.fixture(scope="module")
def client(chat_model):
    from fastapi.testclient import TestClient
    from llamafactory.api.app import create_app

    return TestClient(create_app(chat_model))


@pytest.fixture
def session(chat_model, monkeypatch):
    """Return a function: lines that a user types into ``llamafactory-cli chat`` -> what is printed."""
    from llamafactory.chat import chat_model as module

    def run(*typed):
        lines, printed = iter([*typed, "exit"]), []
        monkeypatch.setattr(builtins, "input", lambda prompt="": next(lines))
        monkeypatch.setattr(builtins, "print", lambda *args, **kwargs: printed.append(" ".join(map(str, args))))
        monkeypatch.setattr(module.ChatModel, "__init__", lambda self: self.__dict__.update(chat_model.__dict__))
        module.run_chat()
        return "\n".join(printed)

    return run


BAD = {
    "a placeholder": ([{"role": "user", "content": "look at <ts><ts/>"}], "1 <ts><ts/> but 0 series"),
    "half of one": ([{"role": "user", "content": "what is <ts>?"}], "a lone <ts>"),
    "in the system prompt": (
        [{"role": "system", "content": "see <ts><ts/>"}, {"role": "user", "content": "hello"}],
        "<ts><ts/> in the system prompt",
    ),
    "in the history": (
        [
            {"role": "user", "content": "hello"},
            {"role": "assistant", "content": "<ts><ts/>"},
            {"role": "user", "content": "go on"},
        ],
        "<ts><ts/> in the assistant text",
    ),
    "a picture": (
        [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "look"},
                    {
                        "type": "image_url",
                        "image_url": {
                            "url": "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk"
                            "+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
                        },
                    },
                ],
            }
        ],
        "ChatTS reads no images or videos",
    ),
    "a sound": (
        [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "listen"},
                    {"type": "audio_url", "audio_url": {"url": "data:audio/wav;base64,UklGRg=="}},
                ],
            }
        ],
        "ChatTS hears no audio",
    ),
}


@pytest.mark.parametrize("stream", [False, True])
class TestApi:
    @pytest.mark.parametrize("name", BAD)
    def test_a_request_that_cannot_be_used(self, client, name, stream):
        messages, reason = BAD[name]
        answer = client.post("/v1/chat/completions", json={"model": "x", "messages": messages, "stream": stream})
        assert answer.status_code == 400 and reason in answer.json()["detail"]

    def test_a_good_request(self, client, stream):
        messages = [{"role": "system", "content": "Be short"}, {"role": "user", "content": "hello"}]
        answer = client.post("/v1/chat/completions", json={"model": "x", "messages": messages, "stream": stream})
        assert answer.status_code == 200 and "assistant" in answer.text
        assert ("[DONE]" in answer.text) is stream


def test_a_placeholder_in_the_tools(client):
    tool = {"type": "function", "function": {"name": "f", "description": "reads <ts><ts/>", "parameters": {}}}
    request = {"model": "x", "messages": [{"role": "user", "content": "hello"}], "tools": [tool]}
    answer = client.post("/v1/chat/completions", json=request)
    assert answer.status_code == 400 and "<ts><ts/> in the tools" in answer.json()["detail"]


def test_a_session_goes_on(session):
    text = session("look at <ts><ts/>", "what is <ts>", "hello")
    assert "1 <ts><ts/> but 0 series" in text and "a lone <ts>" in text
    assert text.count("left out of the conversation") == 2 and text.count("Assistant: ") == 3


@pytest.mark.parametrize("way", ["chat", "stream_chat"])
class TestFromPython:
    def ask(self, model, way, *args, **kwargs):
        return list(getattr(model, way)(*args, **kwargs))

    def test_series_are_read(self, chat_model, way):
        for text in ("look", "look at <ts><ts/> now"):
            assert self.ask(chat_model, way, [{"role": "user", "content": text}], audios=[[1.0, 2.0]]) is not None

    def test_a_long_series_is_refused_at_once(self, chat_model, way):
        limit = chat_model.engine.processor.max_sequence_length
        with pytest.raises(ChatTSError, match=f"points, the base takes {limit}"):
            self.ask(chat_model, way, [{"role": "user", "content": "look"}], audios=[[1.0] * (limit + 1)])

    def test_errors_stay_errors(self, chat_model, way):
        with pytest.raises(ChatTSError, match="1 <ts><ts/> but 0 series"):
            self.ask(chat_model, way, [{"role": "user", "content": "<ts><ts/>"}])
