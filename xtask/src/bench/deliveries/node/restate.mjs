// The service that Restate calls. For each call it writes the delivery's number and the time to whoever measures, over one socket.
import net from 'node:net';
import * as restate from '@restatedev/restate-sdk';

// The SDK needs what Node has from version 22 on.
Promise.withResolvers ??= function withResolvers() {
  let [resolve, reject] = [];
  const promise = new Promise((...both) => ([resolve, reject] = both));
  return { promise, resolve, reject };
};

const [, , port, told] = process.argv;
const socket = net.connect({ host: '127.0.0.1', port: Number(told) });
socket.setNoDelay(true);
let lines = '';
function tell(line) {
  if (lines === '') {
    setImmediate(() => {
      socket.write(lines);
      lines = '';
    });
  }
  lines += line;
}

const handle = restate.handlers.handler(
  { input: restate.serde.binary, output: restate.serde.binary },
  async (_, body) => {
    const at = (performance.timeOrigin + performance.now()) * 1000;
    tell(`${new TextDecoder().decode(body.subarray(0, 64))} ${Math.round(at)}\n`);
    return new Uint8Array();
  },
);
restate.serve({ services: [restate.service({ name: 'work', handlers: { handle } })], port: Number(port) });
