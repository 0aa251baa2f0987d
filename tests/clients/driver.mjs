// What the Node drivers have in common: `node drive_NAME.mjs BASE_URL` asks every case of cases.json
// and prints a JSON object, case -> what the client made of it. As driver.py does it.
import { readFileSync } from "node:fs";

export const TOOLS = [
  {
    type: "function",
    function: {
      name: "weather",
      description: "Tells the weather.",
      parameters: { type: "object", properties: { city: { type: "string" } } },
    },
  },
];

export async function drive(ask) {
  const cases = JSON.parse(readFileSync(new URL("cases.json", import.meta.url), "utf-8"));
  const found = {};
  for (const [name, example] of Object.entries(cases)) {
    try {
      found[name] = await ask(process.argv[2], example);
    } catch (error) {
      found[name] = { error: classes(error), message: String(error?.message ?? JSON.stringify(error)) };
    }
  }
  console.log(JSON.stringify(found));
}

function classes(error) {
  const names = [];
  for (let kind = error?.constructor; kind?.name; kind = Object.getPrototypeOf(kind)) {
    names.push(kind.name);
  }
  return names.length ? names : [typeof error];
}
