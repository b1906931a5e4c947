// Graphile Worker as a child of the benchmark: a command on each line of standard input, a reply
// on each line of standard output, as serve.go has them.
import { Logger, makeWorkerUtils, run } from "graphile-worker";
import pg from "pg";
import { createInterface } from "node:readline";

const filler = "0123456789abcdef".repeat(10);
const connections = 40;
const quiet = new Logger(() => () => {});
const micros = () => Math.round((performance.timeOrigin + performance.now()) * 1000);
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

let setup, pool, utils, runner;
let published = 0;
let succeeded = 0;
const latencies = [];
const failed = new Set();

async function handle({ seq, at }) {
  if (setup.latency) latencies.push(micros() - at);
  if (setup.sleep_ms) await pause(setup.sleep_ms);
  if (setup.fail_every && seq % setup.fail_every === 0 && !failed.has(seq)) {
    failed.add(seq);
    throw new Error("the first attempt fails on purpose");
  }
  succeeded++;
}

// It has no topics: an event for ten handlers is ten jobs, which the publisher adds.
const tasks = () => Array.from({ length: Math.max(1, setup.handlers) }, (_, i) => `handler-${i}`);

async function publish(first, count) {
  const jobs = [];
  for (let seq = first; seq < first + count; seq++) {
    const payload = { seq, at: micros(), data: filler };
    for (const identifier of tasks()) jobs.push({ identifier, payload });
  }
  if (jobs.length === 1) await utils.addJob(jobs[0].identifier, jobs[0].payload);
  else await utils.addJobs(jobs);
}

const operations = {
  async open(c) {
    setup = c.setup;
    pool = new pg.Pool({ connectionString: setup.url, max: connections });
    pool.on("error", () => {}); // an idle connection that the database ends
    utils = await makeWorkerUtils({ pgPool: pool, logger: quiet });
    await utils.migrate();
    return {};
  },

  async publish({ load, limit_ms }) {
    const until = limit_ms ? Date.now() + limit_ms : Infinity;
    let next = 0;
    let done = 0;
    const caller = async () => {
      while (Date.now() < until && next < load.events) {
        const count = Math.min(load.batch, load.events - next);
        next += count;
        published += count;
        await publish(published - count, count);
        done += count;
      }
    };
    await Promise.all(Array.from({ length: load.callers }, caller));
    return { n: done };
  },

  async start() {
    const worker = { connectionString: setup.url };
    if (setup.defaults) {
      worker.concurrentJobs = setup.concurrency || 1;
    } else {
      // What its own performance test sets: jobs are fetched ahead and completed in batches.
      worker.concurrentJobs = setup.concurrency || 24;
      worker.maxPoolSize = 25;
      worker.localQueue = { size: 500, refetchDelay: { durationMs: 10 } };
      worker.completeJobBatchDelay = 0;
      worker.failJobBatchDelay = 0;
    }
    const taskList = Object.fromEntries(tasks().map((name) => [name, handle]));
    runner = await run({ preset: { worker }, logger: quiet, taskList, noHandleSignals: true });
    return {};
  },

  async wait({ n, settle, limit_ms }) {
    const until = limit_ms ? Date.now() + limit_ms : Infinity;
    while (succeeded < (n ?? 0) && Date.now() < until) await pause(1);
    while (settle && succeeded >= (n ?? 0) && Date.now() < until) {
      const { rows } = await pool.query("SELECT FROM graphile_worker._private_jobs LIMIT 1"); // a finished job is deleted
      if (rows.length === 0) break;
      await pause(5);
    }
    return { n: succeeded };
  },

  async latencies() {
    return { latencies };
  },

  async close() {
    if (runner) await Promise.race([runner.stop(), pause(5000)]);
    return {};
  },
};

process.on("SIGINT", () => {}); // the benchmark has it too, and closes this process
const lines = createInterface({ input: process.stdin });
lines.on("close", async () => {
  await operations.close().catch(() => {});
  process.exit(0);
});
let last = Promise.resolve();
lines.on("line", (line) => {
  last = last.then(async () => {
    const c = JSON.parse(line);
    let reply;
    try {
      reply = await operations[c.op](c);
    } catch (error) {
      reply = { error: `${c.op}: ${error.message}` };
    }
    process.stdout.write(JSON.stringify(reply) + "\n");
  });
});
