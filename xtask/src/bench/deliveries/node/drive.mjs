// Runs a plan against a peer whose client is a library for Node: the same loops as in drive.rs.
// It is called with the peer's module and the plan as JSON; it prints a line for each border of windows, and what it found.

const plan = JSON.parse(process.argv[3]);
const { open } = await import(`./${process.argv[2]}.mjs`);

const hex = (number, digits) => number.toString(16).padStart(digits, '0');
const micros = () => (performance.timeOrigin + performance.now()) * 1000;
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const turn = () => new Promise((resolve) => setImmediate(resolve));

const run = hex(plan.run, 4);
const padding = 'x'.repeat(plan.bytes - '{"number":"0000000000000000","padding":""}'.length);
const payload = (number) => ({ number: run + hex(number, 12), padding });

let next = 0;
let accepted = 0;
let attempted = 0;
let over = false;
const timed = plan.rate ? Math.floor(((plan.warm_ms + plan.window_ms * plan.windows) / 1000) * plan.rate) : 0;
const [dues, accepts, attempts] = [0, 1, 2].map(() => new Float64Array(timed));

function heard(content) {
  if (content?.number?.slice(0, 4) !== run) return;
  attempted += 1;
  const number = parseInt(content.number.slice(4), 16);
  if (number < timed && attempts[number] === 0) attempts[number] = micros();
}

async function again_and_again(peer) {
  while (!over) {
    if (plan.ahead_max && accepted - attempted >= plan.ahead_max) {
      await pause(5);
      continue;
    }
    const first = next;
    next += plan.batch;
    const contents = Array.from({ length: plan.batch }, (_, at) => payload(first + at));
    await peer.offer(contents, plan.delay_ms);
    accepted += plan.batch;
  }
}

async function when_due(peer, which, start) {
  for (let number = which; number < timed && !over; number += plan.producers) {
    const due = start + (number / plan.rate) * 1e6;
    // A timer knows whole milliseconds alone: what is left is waited for turn by turn.
    const wait = (due - micros()) / 1000;
    if (wait > 2) await pause(Math.floor(wait) - 1);
    while (micros() < due) await turn();
    dues[number] = due;
    await peer.offer([payload(number)], plan.delay_ms);
    accepts[number] = micros();
    accepted += 1;
  }
}

function quantiles(name, values) {
  values.sort();
  const at = (share) => Math.round(values[Math.max(0, Math.ceil(share * values.length) - 1)] ?? 0);
  console.log(`${name} ${values.length} ${at(0.5)} ${at(0.99)}`);
}

function latencies() {
  const from = Math.floor((plan.warm_ms / 1000) * plan.rate);
  const [accept, attempt] = [[], []];
  for (let number = from; number < timed; number += 1) {
    if (accepts[number] === 0 || attempts[number] === 0) throw new Error(`delivery ${number} was not attempted in time`);
    accept.push(accepts[number] - dues[number]);
    attempt.push(Math.max(0, attempts[number] - accepts[number]));
  }
  quantiles('accept', Float64Array.from(accept));
  quantiles('attempt', Float64Array.from(attempt));
}

async function watch() {
  let until = micros() + plan.warm_ms * 1000;
  for (let border = 0; border <= plan.windows; border += 1) {
    while (micros() < until && !(plan.count_max && accepted >= plan.count_max)) await pause(5);
    console.log(`sample ${accepted} ${attempted}`);
    until += plan.window_ms * 1000;
  }
}

async function main() {
  const peer = await open(plan, heard, () => over);
  await peer.prepare();
  if (plan.windows === 0) {
    console.log('ready');
    process.exit(0);
  }
  if (plan.consumers > 0) await peer.consume(plan.consumers);
  const start = micros();
  const offer = (which) => (plan.rate ? when_due(peer, which, start) : again_and_again(peer));
  const producers = Array.from({ length: plan.producers }, (_, which) => offer(which));
  await Promise.race([watch(), Promise.all(producers).then(() => new Promise(() => {}))]);
  if (plan.rate) {
    await Promise.all(producers);
    for (const until = micros() + 10e6; attempted < timed && micros() < until; ) await pause(5);
    latencies();
  }
  over = true;
  console.log('done');
  process.exit(0);
}

process.on('unhandledRejection', (error) => {
  console.log(`failed ${String(error?.message ?? error).replaceAll('\n', ' ')}`);
  process.exit(1);
});
await main();
