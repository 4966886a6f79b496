// Sends one HL7 message with node-hl7-client, and the same once more on the same connection.
// Usage: node order.js PORT FILE  -> prints one line of JSON: the acknowledgement codes.
const fs = require("fs");
const { Client, Message } = require("node-hl7-client");
const [port, file] = process.argv.slice(2);
const text = fs.readFileSync(file, "latin1");

(async () => {
  const codes = [];
  const client = new Client({ host: "127.0.0.1" });
  let answered;
  const connection = client.createConnection({ port: Number(port) }, async (response) => {
    codes.push(response.getMessage().get("MSA.1").toString());
    answered();
  });
  for (let i = 0; i < 2; i++) {
    const answer = new Promise((resolve) => { answered = resolve; });
    await connection.sendMessage(new Message({ text }));
    await answer;
  }
  await connection.close();
  console.log(JSON.stringify(codes));
  process.exit(0);
})().catch((error) => { console.error(error); process.exit(1); });
