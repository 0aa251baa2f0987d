"""What real servers say when their model cannot, and what they say when the request is wrong."""

import json

import pytest

from arbstr.sansio.failover.capable import CODES, MOST_WORDS, PHRASES, cannot
from arbstr.sansio.failover.refusal import read_refusal


def says(message: str, **more: object) -> bool:
    body = json.dumps({"error": {"message": message, **more}}).encode()
    return cannot(read_refusal({}, body, now_utc=0))


@pytest.mark.parametrize(
    "message",
    [
        "This model's maximum context length is 8192 tokens. However, your messages resulted in"
        " 9001 tokens. Please reduce the length of the messages.",  # OpenAI
        "Your input exceeds the context window of this model. Please adjust your input.",
        "This endpoint's maximum context length is 32768 tokens. However, you requested about 40000"
        " tokens.",  # OpenRouter
        "the request exceeds the available context size. try increasing the context size",
        "request (9001 tokens) exceeds the available context size (8192 tokens), try increasing it",
        "prompt is too long: 213462 tokens > 200000 maximum",  # Anthropic
        "Input is too long for requested model.",  # Bedrock
        "The input token count (1196265) exceeds the maximum number of tokens allowed (1048575).",
        "prompt token count of 140000 exceeds the limit of 128000",  # Copilot
        "This model's maximum prompt length is 131072 but the request contains 537812 tokens.",
        "Please reduce the length of the messages or completion.",  # Groq
        "Request too large for model `m` in organization `o` on tokens per minute (TPM)",
        "The input (12345 tokens) is longer than the model's context length (8192 tokens).",
        "The prompt of 12345 tokens is longer than the context of 8192.",
        "The number of tokens to keep from the initial prompt is greater than the context length",
        "invalid params, context window exceeds limit (2013)",  # MiniMax
        "Invalid request: Your request exceeded model token limit: 262144",  # Kimi
        "Prompt exceeds max length",  # Zhipu
        "The decoder prompt (length 9000) is longer than the maximum model length of 8192.",  # vLLM
        "System role not supported",  # Gemma's template
        "Range of input length should be [1, 30720]",  # DashScope
        "Input tokens exceed the configured limit of 272000 tokens.",
        "too many tokens: total number of tokens in the prompt cannot exceed 4081",  # Cohere
        "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000",
        "Requested tokens (11280) exceed context window of 2048",  # llama-cpp-python
        "Context window exceeded: requested 12000 tokens",
        "max_tokens is too large: 32000. This model supports at most 16384 completion tokens",
        "max_tokens: 100000 > 64000, which is the maximum allowed number of output tokens for m",
        "registry.ollama.ai/library/gemma:2b does not support tools",  # Ollama
        'No endpoints found that support tool use. Try disabling "question".',  # OpenRouter
        "No endpoints found that support image input",
        "No endpoints found that support the provided 'tool_choice' value.",
        "No endpoints found that can handle the requested parameters.",
        '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set',
        "`tool calling` is not supported with this model",  # Groq
        "Function calling is not enabled for models/gemma-3-27b-it",  # Gemini
        "this model does not support image input (ref: b8bd630e)",  # Ollama
        "Invalid content type. image_url is only supported by certain models.",  # OpenAI
        "m is not a multimodal model",  # vLLM
        "Unsupported content part type for text-only server: image_url",
        "image input is not supported - hint: you may need to provide the mmproj",  # llama.cpp
        "At most 0 image(s) may be provided in one request.",  # vLLM
        "Unsupported parameter: 'max_tokens' is not supported with this model.",  # OpenAI
        "Unsupported value: 'temperature' does not support 0.2 with this model.",
        "Invalid parameter: 'response_format' of type 'json_schema' is not supported with this"
        " model.",
        "Argument not supported on this model: logprobs",  # xAI
        "Model grok-3 does not support parameter reasoningEffort.",
        "Developer instruction is not enabled for models/gemma-3-27b-it",
        "The model's context window is 4096 but the prompt has 5000 tokens",
        "context_length_exceeded",
        "tokens in request more than max tokens allowed: 30000 > 8192",
        "This model only supports single tool-calls at once!",  # Llama's template
        "Tools are not supported.",
        "Images are not supported here",
        "This endpoint does not accept images",
        "The model only supports text input",
        "Unsupported parameter: logit_bias",
        "property 'reasoning_effort' is unsupported",  # Groq
        "response_format json_schema is not supported",
        "`parallel_tool_calls` is not supported",
        "context_management: Extra inputs are not permitted",  # Anthropic, without its beta
        "extra fields not permitted",
    ],
)
def test_a_model_that_cannot_says_so(message: str) -> None:
    assert says(message)
    assert says(message.upper())


@pytest.mark.parametrize("code", sorted(CODES))
def test_a_code_says_so_without_words(code: str) -> None:
    assert says("no", code=code)
    assert says("no", type=code.upper())
    assert not says(code.replace("_", "-"))


@pytest.mark.parametrize(
    "message",
    [
        "",
        "no",
        "Invalid type for 'messages': expected an array of objects, but got a string instead.",
        "Missing required parameter: 'messages[0].content'.",
        "max_tokens must be an integer",
        "max_tokens must be at least 1",
        "Invalid value for 'temperature': expected a number between 0 and 2.",
        "Unrecognized request argument supplied: foo",
        "An assistant message with 'tool_calls' must be followed by tool messages responding to it",
        "'messages' must contain the word 'json' in some form",
        "messages: at least one message is required",
        "Invalid 'tools[0].function.name': string does not match pattern.",
        "We could not parse the JSON body of your request.",
        "you must provide a model parameter",
        "Invalid image data.",
        "The response was filtered due to the prompt triggering the content management policy.",
        "Your account does not support this operation",
        "The organization is not supported in your region",
        "This content type is not supported",
    ],
)
def test_a_request_that_is_wrong_by_itself_is_no_models_limit(message: str) -> None:
    assert not says(message)


def test_a_gateway_quotes_the_provider_behind_it() -> None:
    raw = '{"error":{"message":"prompt is too long: 213462 tokens > 200000 maximum"}}'
    assert says("Provider returned error", code=400, metadata={"raw": raw})
    assert not says("Provider returned error", code=400, metadata={"raw": "no"})


@pytest.mark.parametrize(
    "body",
    [
        b'{"error":"registry.ollama.ai/library/gemma does not support tools"}',
        b'{"detail":"prompt is too long"}',
        b'{"detail":[{"loc":["body"],"msg":"prompt is too long"}]}',
        b'{"object":"error","message":"maximum context length","type":"BadRequestError"}',
        b"prompt is too long",
    ],
)
def test_the_words_may_stand_anywhere_a_provider_puts_them(body: bytes) -> None:
    assert cannot(read_refusal({}, body, now_utc=0))


def test_what_a_server_repeats_of_the_request_is_not_its_word() -> None:
    said = [{"loc": ["body", "n"], "msg": "not an integer", "input": "prompt is too long"}]
    assert not cannot(read_refusal({}, json.dumps({"detail": said}).encode(), now_utc=0))
    assert not says("bad messages: " + "x" * MOST_WORDS + " prompt is too long")


def test_every_phrase_is_quick_on_a_text_that_nearly_fits() -> None:
    assert sum(map(len, PHRASES.values())) > 30
    assert not says("model model " * 80 + "exceed exceed " * 80)
