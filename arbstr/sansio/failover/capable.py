"""A refusal that is about this model at this provider: what it cannot do, another may.

    Refusal --cannot--> whether it says so

One table of codes and phrases, collected from what real servers say. A request that is wrong
by itself (a type, a missing member) is not among them: every provider would refuse it. Where a
phrase fits too much, the price is one more free attempt; where it fits too little, the client is
refused what the next provider could have done.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from arbstr.sansio.failover.refusal import Refusal, words_of

CODES: Final = frozenset(
    {
        "context_length_exceeded",  # OpenAI, Cerebras
        "exceed_context_size_error",  # llama.cpp
        "contextwindowexceedederror",  # LiteLLM
        "model_context_window_exceeded",
        "tokens_limit_reached",  # GitHub Models
        "unsupported_parameter",  # OpenAI
        "unsupported_value",
        "unsupportedparamserror",  # LiteLLM
    }
)
"""`code` or `type` of an error, in lower case."""

PHRASES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "context length": (
            r"maximum context length",  # OpenAI, vLLM, OpenRouter, DeepSeek, Mistral
            r"maximum prompt length",  # xAI
            r"context[ _](?:length|window|size|limit)",  # whatever is said of it
            r"(?:longer|greater|larger) than the (?:model'?s? )?context",  # SGLang, LM Studio
            r"(?:prompt|input|messages?|conversation) (?:is|are) too (?:long|large)",
            r"(?:prompt|request) too (?:long|large) for",  # Groq's 413
            r"request body too large for .{0,80}model",  # GitHub Models
            r"token count[^.]{0,40} exceeds",  # Gemini, Copilot
            r"exceed\w* the (?:maximum number of|configured limit|max\w* (?:allowed )?length)",
            r"input length[^.]{0,40} exceeds",  # SGLang
            r"exceeded model token limit",  # Kimi
            r"longer than the maximum model length",  # vLLM
            r"prompt exceeds max length",  # Zhipu
            r"range of input length should be",  # DashScope
            r"reduce the length of (?:the|your) (?:messages|prompt|input)",  # Groq
            r"too many tokens",  # Cohere
            r"`inputs` tokens \+ `max_new_tokens` must be",  # TGI
            r"`inputs` must have less than",
            r"this model supports at most",  # OpenAI: max_tokens
            r"max(?:imum)? tokens allowed",
            r"maximum allowed number of output tokens",  # Anthropic: max_tokens
        ),
        "tools": (
            r"(?:does not|doesn't|do not) support (?:the )?(?:tool|function)",  # Ollama
            r"(?:tool|function) (?:use|call\w*|choice) (?:is|are) not (?:supported|enabled)",
            r"\btool choice requires",  # vLLM
            r"\b(?:tools?|functions?) (?:is|are) not (?:supported|enabled|allowed|available)",
            r"no endpoints found that (?:can )?(?:support|handle)",  # OpenRouter, any of them
        ),
        "images": (
            r"(?:does not|doesn't|do not) support (?:image|vis|audio|video|file|pdf|multi)",
            r"(?:image|audio|video|file|multi-?modal|vision) inputs? (?:is|are) not supported",
            r"\b(?:images?|audio|videos?|files?|pdfs?|vision|multi-?modal(?: content)?)"
            r" (?:is|are) not (?:supported|enabled|accepted|available)",
            r"(?:does not|doesn't|cannot|can't) (?:accept|handle|take|see)"
            r" (?:image|audio|video|file)",
            r"\b(?:only supports|supports only|only accepts) text\b|text-only",
            r"image_url is only supported",  # OpenAI
            r"not a (?:multi-?modal|vision) model",  # vLLM
            r"unsupported content part type",  # llama.cpp
            r"at most 0 (?:image|audio|video)",  # vLLM
        ),
        "a parameter": (
            r"(?:is|are) not (?:supported|enabled|available)(?: \w+)? (?:with|by|for|on|in)"
            r" (?:(?:this|the|that|your) )?(?:[\w-]+ )?models?\b",
            r"not supported (?:with|by|for|on) (?:this|the) model",
            r"\bunsupported (?:parameter|argument|property)",
            r"\bproperty [^\n]{1,80} is unsupported",  # Groq
            r"\b[a-z]{1,40}_[a-z_]{1,40}[`'\"]?(?: [\w-]{1,40})? (?:is|are) (?:not |un)supported",
            r"\bextra (?:inputs|fields) (?:are )?not permitted",  # Pydantic: Anthropic, vLLM, TGI
            r"system role (?:is )?not supported",  # Gemma's template
            r"\bmodels? only supports?\b",  # a template that knows one tool call at once
            r"\bmodels?\b[^.\n]{0,80} (?:does not|doesn't|do not) support",
            r"(?:does not|doesn't|do not) support [^\n]{0,80}(?:with|on|for) (?:this|the) model",
        ),
    }
)
"""What a message says, in lower case, by what the model cannot. Regular expressions without
nested repetition: messages are cut before (`MOST_WORDS`), and a search is quick."""

MOST_WORDS: Final = 1000
"""Characters of each text that are looked at. Servers that echo a request do so at the end."""

_PHRASE: Final = re.compile("|".join(phrase for group in PHRASES.values() for phrase in group))


def cannot(refusal: Refusal) -> bool:
    """Whether a refusal says that this model here cannot do what was asked."""
    if refusal.codes & CODES:
        return True
    return any(_PHRASE.search(words[:MOST_WORDS].lower()) for words in words_of(refusal))
