// Restate's ingress client, as its users write it: `node client.mjs URL STORY`. Prints what it was told, as JSON.
import * as clients from "@restatedev/restate-sdk-clients";

const [url, story] = process.argv.slice(2);
const ingress = clients.connect({ url });

const Counter = { name: "Counter" };
const Account = { name: "Account" };
const Post = { name: "Post" };
const Signup = { name: "Signup" };

const { opts, sendOpts } = clients.rpc;

async function until(ask, holds) {
  for (;;) {
    const answer = await ask();
    if (holds(answer)) return answer;
  }
}

async function refusal(promise) {
  try {
    return { value: await promise };
  } catch (error) {
    return { class: error.constructor.name, status: error.status, body: JSON.parse(error.responseText) };
  }
}

const stories = {
  async calls() {
    const counter = ingress.objectClient(Counter, "a/b ü");
    const added = await counter.add(3);
    const once = await counter.add(4, opts({ idempotencyKey: "k1" }));
    const again = await counter.add(4, opts({ idempotencyKey: "k1" }));
    const nothing = await counter.reset();
    const got = await counter.get();
    const delivered = await ingress.serviceClient(Post).deliver({ to: "ann", text: "hello" });
    const generic = await ingress.call({ service: "Counter", handler: "add", key: "generic", parameter: 2 });
    return { added, once, again, nothing: nothing ?? null, got, delivered: delivered ?? null, generic };
  },

  async sends() {
    const counter = ingress.objectSendClient(Counter, "sent");
    const plain = await counter.add(1);
    const keyed = await counter.add(10, sendOpts({ idempotencyKey: "s1" }));
    const repeated = await counter.add(10, sendOpts({ idempotencyKey: "s1" }));
    const result = await ingress.result(keyed);
    const soon = await counter.add(100, sendOpts({ delay: { milliseconds: 50 }, idempotencyKey: "s2" }));
    const late = await ingress.result(soon);
    const letter = await ingress.serviceSendClient(Post).deliver(
      { to: "bob", text: "tomorrow" },
      sendOpts({ delay: { hours: 1 }, idempotencyKey: "p1" }),
    );
    return { plain, keyed, repeated, result, soon, late, letter };
  },

  async workflow() {
    const ann = ingress.workflowClient(Signup, "ann");
    const submitted = await ann.workflowSubmit("ann@example.com");
    const resubmitted = await ann.workflowSubmit("ann@example.com");
    const { link } = await until(() => ann.status(), (status) => status.link !== "");
    await ingress.resolveAwakeable(link, "clicked in Oslo");
    const early = (await ann.workflowOutput()).ready;
    await ann.decide({ verdict: "approved", by: "bob" });
    const attached = await ann.workflowAttach();
    const output = await ann.workflowOutput();
    return { submitted, resubmitted, link, early, attached, output };
  },

  async rejection() {
    const eve = ingress.workflowClient(Signup, "eve");
    await eve.workflowSubmit("eve@example.com");
    const { link } = await until(() => eve.status(), (status) => status.link !== "");
    await ingress.rejectAwakeable(link, "the address bounces");
    return { refused: await refusal(eve.workflowAttach()), again: await refusal(eve.workflowOutput()) };
  },

  async refusals() {
    const account = ingress.objectClient(Account, "poor");
    return {
      funds: await refusal(account.withdraw(5)),
      service: await refusal(ingress.serviceClient({ name: "Nobody" }).asks()),
      handler: await refusal(account.steal(1)),
      value: await refusal(account.deposit("much")),
      awakeable: await refusal(ingress.resolveAwakeable("awk_unknown", 1)),
      scope: await refusal(ingress.scope("s").objectClient(Account, "poor").look()),
    };
  },
};

console.log(JSON.stringify(await stories[story]()));
