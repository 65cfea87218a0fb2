// Uses message sessions with @azure/service-bus. Run: node sessions.mjs CONNECTION_STRING QUEUE [websocket]
// Prints one line of JSON per check; exits with 1 at the first one that fails.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { ServiceBusClient } from "@azure/service-bus";

const [connectionString, queue, transport] = process.argv.slice(2);
const client = new ServiceBusClient(connectionString, {
  retryOptions: { maxRetries: 0, timeoutInMs: 20000 },
  webSocketOptions: transport === "websocket" ? { webSocket: WebSocket } : undefined,
});
const bodies = (messages) => messages.map((message) => message.body);

async function check(name, run) {
  await run();
  console.log(JSON.stringify(name));
}

async function receiveExactly(receiver, count) {
  const found = [];
  while (found.length < count) {
    found.push(...(await receiver.receiveMessages(count - found.length, { maxWaitTimeInMs: 5000 })));
  }
  return found;
}

async function codeOf(promise) {
  try {
    await promise;
  } catch (error) {
    return error.code;
  }
  return "none";
}

try {
  const sender = client.createSender(queue);
  await check("send", async () => {
    const id = randomUUID();
    await sender.sendMessages({ body: { n: 1 }, sessionId: "send", messageId: id, applicationProperties: { a: 1, b: "x" } });
    const receiver = await client.acceptSession(queue, "send");
    const [message] = await receiveExactly(receiver, 1);
    assert.deepEqual(message.body, { n: 1 });
    assert.equal(message.messageId, id);
    assert.deepEqual(message.applicationProperties, { a: 1, b: "x" });
    await receiver.completeMessage(message);
    await receiver.close();
  });
  await check("batch", async () => {
    const batch = await sender.createMessageBatch();
    for (let n = 0; n < 10; n++) assert.ok(batch.tryAddMessage({ body: n, sessionId: "batch" }));
    await sender.sendMessages(batch);
    const receiver = await client.acceptSession(queue, "batch", { receiveMode: "receiveAndDelete" });
    assert.deepEqual(bodies(await receiveExactly(receiver, 10)), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    await receiver.close();
  });
  await check("accept named, second holder refused, accept next", async () => {
    await sender.sendMessages({ body: "x", sessionId: "named" });
    const first = await client.acceptSession(queue, "named");
    assert.equal(await codeOf(client.acceptSession(queue, "named")), "SessionCannotBeLocked");
    await first.close();
    const next = await client.acceptNextSession(queue);
    assert.equal(next.sessionId, "named");
    await next.completeMessage((await receiveExactly(next, 1))[0]);
    await next.close();
  });
  await check("settle all ways", async () => {
    // Without ids: the SDK can settle a dead letter only if the server gave it one, as Azure does.
    const names = ["complete", "abandon", "dead", "defer"];
    await sender.sendMessages(names.map((body) => ({ body, sessionId: "settle" })));
    const receiver = await client.acceptSession(queue, "settle");
    const [complete, abandon, dead, defer] = await receiveExactly(receiver, 4);
    await receiver.completeMessage(complete);
    await receiver.abandonMessage(abandon, { changed: "abandon" });
    await receiver.deadLetterMessage(dead, { deadLetterReason: "why", deadLetterErrorDescription: "more", changed: "dead" });
    await receiver.deferMessage(defer, { changed: "defer" });
    const [again] = await receiveExactly(receiver, 1);
    assert.deepEqual([again.body, again.deliveryCount], ["abandon", 1]);
    assert.deepEqual(again.applicationProperties, { changed: "abandon" });
    await receiver.completeMessage(again);
    const [late] = await receiver.receiveDeferredMessages(defer.sequenceNumber);
    assert.equal(late.body, "defer");
    assert.deepEqual(late.applicationProperties, { changed: "defer" });
    await receiver.completeMessage(late);
    await receiver.close();
  });
  await check("receive dead letters", async () => {
    const receiver = client.createReceiver(queue, { subQueueType: "deadLetter" });
    const [dead] = await receiveExactly(receiver, 1);
    assert.deepEqual([dead.body, dead.deadLetterReason, dead.deadLetterErrorDescription], ["dead", "why", "more"]);
    assert.equal(dead.applicationProperties.changed, "dead");
    await receiver.completeMessage(dead);
    await receiver.close();
  });
  await check("renew and state", async () => {
    const receiver = await client.acceptSession(queue, "state");
    const before = receiver.sessionLockedUntilUtc;
    await new Promise((done) => setTimeout(done, 20));
    assert.ok((await receiver.renewSessionLock()) > before);
    await receiver.setSessionState({ step: 1 });
    assert.deepEqual(await receiver.getSessionState(), { step: 1 });
    await receiver.setSessionState(null);
    await receiver.close();
  });
  await check("peek", async () => {
    await sender.sendMessages(["a", "b"].map((body) => ({ body, sessionId: "peek" })));
    const receiver = await client.acceptSession(queue, "peek");
    assert.deepEqual(bodies(await receiver.peekMessages(5)), ["a", "b"]);
    for (const message of await receiveExactly(receiver, 2)) await receiver.completeMessage(message);
    await receiver.close();
  });
  await check("schedule and cancel", async () => {
    const later = new Date(Date.now() + 3600000);
    const numbers = await sender.scheduleMessages([{ body: "1", sessionId: "later" }, { body: "2", sessionId: "later" }], later);
    await sender.cancelScheduledMessages(numbers[0]);
    const receiver = await client.acceptSession(queue, "later");
    assert.deepEqual(bodies(await receiver.peekMessages(5)), ["2"]);
    await receiver.close();
    await sender.cancelScheduledMessages(numbers[1]);
  });
  await check("subscribe", async () => {
    const receiver = await client.acceptSession(queue, "subscribe");
    const seen = [];
    await new Promise((done, fail) => {
      receiver.subscribe({
        processMessage: async (message) => {
          seen.push(message.body);
          if (seen.length === 20) done();
        },
        processError: async ({ error }) => fail(error),
      });
      sender.sendMessages([...Array(20).keys()].map((body) => ({ body, sessionId: "subscribe" }))).catch(fail);
    });
    assert.deepEqual(seen, [...Array(20).keys()]);
    await receiver.close();
  });
  await check("close", async () => {
    await sender.close();
    await client.close();
  });
} catch (error) {
  console.error(error);
  process.exit(1);
}
