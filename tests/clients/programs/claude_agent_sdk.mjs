// The Claude Agent SDK: an agent with a tool of this program's own. Prints what the agent sends.

import { createSdkMcpServer, query, tool } from "@anthropic-ai/claude-agent-sdk";
import { z } from "zod";

const add = tool("add", "Adds two numbers.", { a: z.number(), b: z.number() }, async ({ a, b }) => ({
  content: [{ type: "text", text: `The sum is ${a + b}.` }],
}));
const agent = query({
  prompt: "Do it.",
  options: {
    mcpServers: { numbers: createSdkMcpServer({ name: "numbers", tools: [add] }) },
    allowedTools: ["mcp__numbers__add"],
    includePartialMessages: true,
    settingSources: [],
  },
});
for await (const message of agent) console.log(JSON.stringify(message));
