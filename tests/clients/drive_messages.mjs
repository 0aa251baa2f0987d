// Anthropic's Node SDK and the Vercel AI SDK at /v1/messages: `node drive_messages.mjs USE BASE_URL`
// prints what came of one stream as JSON: the text, or the message of the error.
import { createAnthropic } from "@ai-sdk/anthropic";
import Anthropic from "@anthropic-ai/sdk";
import { streamText } from "ai";

const [use, base] = process.argv.slice(2);
const request = { model: "gpt-4o", max_tokens: 100, messages: [{ role: "user", content: "Hi" }] };
const client = new Anthropic({ apiKey: "x", baseURL: base.replace(/\/v1$/, "") });

const USES = {
  async loop() {
    let text = "";
    for await (const event of await client.messages.create({ ...request, stream: true })) {
      if (event.delta?.type === "text_delta") text += event.delta.text;
    }
    return text;
  },
  async helper() {
    const message = await client.messages.stream(request).finalMessage();
    return message.content.map((block) => block.text ?? "").join("");
  },
  async ai() {
    const model = createAnthropic({ apiKey: "x", baseURL: base })("gpt-4o");
    const answer = streamText({ model, prompt: "Hi", maxRetries: 0, onError() {} });
    for await (const part of answer.fullStream) {
      // As its documentation says: errors in a stream are parts of it.
      if (part.type === "error") throw part.error;
    }
    return await answer.text;
  },
};

try {
  console.log(JSON.stringify({ text: await USES[use]() }));
} catch (error) {
  console.log(JSON.stringify({ error: String(error?.message ?? JSON.stringify(error)) }));
}
