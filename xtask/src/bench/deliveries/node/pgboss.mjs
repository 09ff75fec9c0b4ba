// pg-boss: a job for each delivery; loops that fetch eight and complete them together, as many as hold one for each consumer. One at a time
// it does less. Who finds none looks again after some milliseconds: its own workers would look twice a second.
import PgBoss from 'pg-boss';

export async function open(plan, heard, over) {
  const boss = new PgBoss({
    host: '127.0.0.1', port: plan.port, user: 'postgres', database: 'postgres',
    max: Math.min(64, Math.max(plan.producers + plan.consumers, 4)), supervise: false, schedule: false,
  });
  boss.on('error', () => {});
  await boss.start();
  const startAfter = (delay) => (delay ? new Date(Date.now() + delay) : undefined);
  return {
    prepare: () => boss.createQueue(plan.queue),
    offer(contents, delay) {
      if (contents.length === 1) return boss.send(plan.queue, contents[0], { startAfter: startAfter(delay) });
      return boss.insert(contents.map((data) => ({ name: plan.queue, data, startAfter: startAfter(delay) })));
    },
    async consume(count) {
      const one = async () => {
        while (!over()) {
          const jobs = await boss.fetch(plan.queue, { batchSize: 8 });
          jobs.forEach((job) => heard(job.data));
          if (jobs.length > 0) await boss.complete(plan.queue, jobs.map((job) => job.id));
          else await new Promise((resolve) => setTimeout(resolve, 5));
        }
      };
      for (let which = 0; which < count / 8; which += 1) one();
    },
  };
}
