// The Vercel AI SDK's `openai(model)`, which is Responses: node ... BASE_URL plain|streamed.
import { createOpenAI } from "@ai-sdk/openai";
import { generateText, jsonSchema, stepCountIs, streamText, tool } from "ai";

const [, , baseURL, mode] = process.argv;
const openai = createOpenAI({ baseURL, apiKey: "unused" });
const request = {
  model: openai("gpt-4o"),
  system: "Look twice.",
  prompt: "Look.",
  stopWhen: stepCountIs(5),
  tools: {
    look: tool({
      description: "Looks at a place.",
      inputSchema: jsonSchema({ type: "object", properties: { place: { type: "string" } } }),
      execute: async ({ place }) => `Nothing at ${place}.`,
    }),
  },
};

try {
  let text;
  if (mode === "plain") {
    text = (await generateText(request)).text;
  } else {
    const answer = streamText({ ...request, onError() {} });
    for await (const part of answer.fullStream) {
      // As its documentation says: errors in a stream are parts of it.
      if (part.type === "error") throw part.error;
    }
    text = await answer.text;
  }
  console.log(JSON.stringify({ text }));
} catch (error) {
  console.log(JSON.stringify({ error: error.message ?? JSON.stringify(error) }));
}
