// The OpenAI Node SDK, whose own timeout makes it ask again while the first answer is written:
// `node again_openai.mjs BASE_URL` prints what it got, plain and streamed, and whose answer it was.
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "unused", timeout: 1000, maxRetries: 2 });
const request = { model: "fake-late", messages: [{ role: "user", content: "Hi" }] };

const plain = await client.chat.completions.create(request).withResponse();
const streamed = await client.chat.completions
  .create({ ...request, user: "another", stream: true })
  .withResponse();
let text = "";
for await (const chunk of streamed.data) text += chunk.choices[0].delta.content ?? "";

console.log(
  JSON.stringify({
    plain: [plain.data.choices[0].message.content, plain.response.headers.get("x-arbstr-joined")],
    streamed: [text, streamed.response.headers.get("x-arbstr-joined")],
  }),
);
