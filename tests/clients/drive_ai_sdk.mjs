// The Vercel AI SDK with @ai-sdk/openai-compatible, one case after another; see driver.mjs.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, jsonSchema, streamText, tool } from "ai";
import { drive, TOOLS } from "./driver.mjs";

await drive(async (baseURL, { model, stream = false, usage = false, tools = false }) => {
  const provider = createOpenAICompatible({ name: "arbstr", baseURL, includeUsage: usage });
  const { description, parameters, name } = TOOLS[0].function;
  const request = { model: provider(model), prompt: "Hi", maxRetries: 0 };
  if (tools) request.tools = { [name]: tool({ description, inputSchema: jsonSchema(parameters) }) };
  if (!stream) {
    const answer = await generateText(request);
    return said(answer.text, answer.toolCalls, answer.usage);
  }
  const answer = streamText({ ...request, onError() {} });
  for await (const part of answer.fullStream) {
    // As its documentation says: errors in a stream are parts of it.
    if (part.type === "error") throw part.error;
  }
  return said(await answer.text, await answer.toolCalls, await answer.usage);
});

function said(text, calls, usage) {
  const counted = usage?.inputTokens !== undefined && usage?.outputTokens !== undefined;
  return {
    text,
    tools: calls.map((call) => [call.toolName, call.input]),
    usage: counted ? [usage.inputTokens, usage.outputTokens] : null,
  };
}
