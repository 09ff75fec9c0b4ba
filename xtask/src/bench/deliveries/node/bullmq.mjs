// BullMQ: a job for each delivery, a worker of its own kind with so many jobs at once. What is done is removed.
import { Queue, Worker } from 'bullmq';

export async function open(plan, heard) {
  const connection = { host: '127.0.0.1', port: plan.port, maxRetriesPerRequest: null };
  const queue = new Queue(plan.queue, { connection });
  return {
    prepare: () => queue.waitUntilReady(),
    offer(contents, delay) {
      const opts = { removeOnComplete: true, ...(delay ? { delay } : {}) };
      if (contents.length === 1) return queue.add('d', contents[0], opts);
      return queue.addBulk(contents.map((data) => ({ name: 'd', data, opts })));
    },
    async consume(count) {
      const worker = new Worker(plan.queue, async (job) => heard(job.data), { connection, concurrency: count });
      worker.on('error', (error) => { throw error; });
      await worker.waitUntilReady();
    },
  };
}
