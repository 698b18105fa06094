// Answers requests to Perfetto's trace processor: node trace_processor.cjs BUNDLE REQUESTS REPLIES
//
// BUNDLE is the script that ui.perfetto.dev runs in a worker, beside its WebAssembly; the two files are serialised
// TraceProcessorRpcStream messages. The script is made for browsers: it gets what it needs of one, and no `process`.
"use strict";
const fs = require("node:fs");
const path = require("node:path");
const vm = require("node:vm");

const [bundle, requests, replies] = process.argv.slice(2);

globalThis.WorkerGlobalScope = class {};
globalThis.self = { location: { href: "file:///" } };
globalThis.XMLHttpRequest = class {
  open(_method, url) {
    this.file = path.join(path.dirname(bundle), path.basename(url));
  }
  send() {
    this.response = new Uint8Array(fs.readFileSync(this.file)).buffer;
  }
};
globalThis.process = undefined;
vm.runInThisContext(fs.readFileSync(bundle, "utf8"));

setImmediate(() => {
  const out = fs.openSync(replies, "w");
  const port = { postMessage: (bytes) => fs.writeSync(out, bytes) };
  self.onmessage({ data: port });
  port.onmessage({ data: new Uint8Array(fs.readFileSync(requests)) });
  fs.closeSync(out);
});
