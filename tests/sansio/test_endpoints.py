"""Which requests are another API's: by their paths, with every method such a client uses."""

from typing import Final

import pytest

from arbstr.sansio.endpoints import OURS, RESOURCES, is_foreign

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "path",
    [
        *("/v1/responses", "/v1/responses/resp_1/cancel", "/v1/messages", "/v1/embeddings"),
        *("/v1/messages/count_tokens", "/v1/messages/batches", "/v1/completions"),
        *("/v1/audio/speech", "/v1/images/generations", "/v1/files", "/v1/batches/b/cancel"),
        *("/v1/assistants", "/v1/threads/t/runs", "/v1/moderations", "/v1/fine_tuning/jobs"),
        *("/v1/chat/completions/chatcmpl-1", "/v1/chat/completions/chatcmpl-1/messages"),
        *("/responses", "/messages", "/embeddings", "/completions", "/audio/transcriptions"),
        *("/api/chat", "/api/generate", "/api/tags", "/api/v1/chat/completions", "/api"),
        *("/openai/deployments/gpt-4o/chat/completions", "/anthropic/v1/messages"),
        *("/v1beta/models/gemini-3:generateContent", "/v1beta/openai/chat/completions"),
    ],
)
def test_a_route_of_a_known_api_is_foreign_by_any_method(path: str, method: str) -> None:
    assert is_foreign(method, path)


@pytest.mark.parametrize(
    "path", ["/v1/nonesuch", "/v1/v1/messages", "/v1/v1/chat/completions", "/v1/models/g-3:countIt"]
)
def test_whatever_is_posted_below_v1_is_for_some_api(path: str) -> None:
    assert is_foreign("POST", path)
    assert not is_foreign("GET", path)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "path",
    [
        *(
            "/",
            "/v1",
            "/v1/",
            "/nonesuch",
            "/responsesx",
            "/apis",
            "/x/responses",
            "//v1/responses",
        ),
        *("/v1//chat/completions", "/v1/chat/completions/", "/v1/chat/completion", "/v1/chat"),
        *("/favicon.ico", "/robots.txt", "/v1/models/", "/v1/models", "/models/gpt-4o"),
        *(
            f"{prefix}/{name}{behind}"
            for prefix in ("", "/v1")
            for name in sorted(OURS)
            for behind in ("", "/x")
        ),
    ],
)
def test_what_is_ours_or_nobodys_is_not_foreign(path: str, method: str) -> None:
    assert not is_foreign(method, path)


def test_a_model_id_may_hold_a_colon() -> None:
    assert not is_foreign("GET", "/v1/models/llama3:8b")


def test_no_name_is_ours_and_another_apis() -> None:
    assert not OURS & RESOURCES
