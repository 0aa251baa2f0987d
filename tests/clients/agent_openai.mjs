// The OpenAI Node SDK on Responses, as a loop or with its helper: node ... BASE_URL plain|streamed|helper.
import OpenAI from "openai";

const [, , baseURL, mode] = process.argv;
const client = new OpenAI({ baseURL, apiKey: "unused" });
const tools = [
  {
    type: "function",
    name: "look",
    description: "Looks at a place.",
    strict: false,
    parameters: { type: "object", properties: { place: { type: "string" } } },
  },
];

async function ask(input) {
  const request = { model: "gpt-4o", instructions: "Look twice.", input, tools, store: false };
  if (mode === "plain") return client.responses.create(request);
  if (mode === "helper") return client.responses.stream(request).finalResponse();
  let last;
  for await (const event of await client.responses.create({ ...request, stream: true })) {
    last = event.response ?? last;
  }
  return last;
}

try {
  const input = [{ role: "user", content: "Look." }];
  for (;;) {
    const answer = await ask(input);
    input.push(...answer.output);
    const calls = answer.output.filter((item) => item.type === "function_call");
    if (calls.length === 0) {
      console.log(JSON.stringify({ text: answer.output[0].content[0].text }));
      break;
    }
    for (const { call_id, arguments: given } of calls) {
      const output = `Nothing at ${JSON.parse(given).place}.`;
      input.push({ type: "function_call_output", call_id, output });
    }
  }
} catch (error) {
  console.log(JSON.stringify({ error: `${error.constructor.name}: ${error.message}` }));
}
