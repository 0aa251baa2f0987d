// The OpenAI Node SDK, one case after another; see driver.mjs.
import OpenAI from "openai";
import { drive, TOOLS } from "./driver.mjs";

await drive(async (baseURL, { model, stream = false, usage = false, tools = false }) => {
  const client = new OpenAI({ baseURL, apiKey: "unused" });
  const request = { model, messages: [{ role: "user", content: "Hi" }] };
  if (tools) request.tools = TOOLS;
  if (!stream) {
    const answer = await client.chat.completions.create(request);
    const { message } = answer.choices[0];
    return said(message.content, message.tool_calls, answer.usage);
  }
  if (usage) request.stream_options = { include_usage: true };
  if (tools) {
    const answer = await client.chat.completions.stream(request).finalChatCompletion();
    const { message } = answer.choices[0];
    return said(message.content, message.tool_calls, answer.usage);
  }
  let text = "";
  let counted = null;
  for await (const chunk of await client.chat.completions.create({ ...request, stream: true })) {
    // Who did not ask for the usage does not expect a chunk without choices.
    if (usage && chunk.usage) counted = chunk.usage;
    else text += chunk.choices[0].delta.content ?? "";
  }
  return said(text, [], counted);
});

function said(text, calls, usage) {
  return {
    text: text ?? "",
    tools: (calls ?? []).map((call) => [call.function.name, JSON.parse(call.function.arguments)]),
    usage: usage ? [usage.prompt_tokens, usage.completion_tokens] : null,
  };
}
