/**
 * What computes: two sessions of ONNX Runtime, and the adapter that they tune.
 *
 * It runs beside the page, which stays live meanwhile. The page asks by {id, ask, given}, and gets
 * {id, answer} or {id, error}.
 */

import * as ort from "./ort/ort.wasm.bundle.min.mjs";
import { readTensor, withTensors } from "./safetensors.js";

const FORMAT = 1; // of the exported folder
const EVALUATED_AT_ONCE = 24; // rows, so that little memory is taken

ort.env.wasm.numThreads = 1; // more would need a server that isolates the page
ort.env.wasm.wasmPaths = { wasm: new URL("ort/ort-wasm-simd-threaded.wasm", import.meta.url).href };
ort.env.logLevel = "error";

// WebAssembly's memory belongs to ONNX Runtime, which does not tell its size.
let memory = null;
WebAssembly.Memory = class extends WebAssembly.Memory {
  constructor(described) {
    super(described);
    memory = this;
  }
};

const state = {}; // about, rows, sessions, base and adapter as files, trained: {name: ort.Tensor}

const asks = { load, step, evaluate, score, begin, adapter };

let last = Promise.resolve(); // what was asked last: a session does one thing at a time

self.onmessage = ({ data }) => {
  last = last.then(() => reply(data));
};

async function reply({ id, ask, given }) {
  try {
    self.postMessage({ id, answer: await asks[ask](given) });
  } catch (error) {
    self.postMessage({ id, error: error.message });
  }
}

// -- the folder

async function load() {
  const about = await (await file("tinyzo.json")).json();
  if (about.format !== FORMAT || about.kind !== "words") {
    const found = `model/ has format ${about.format} and rows of kind ${about.kind}`;
    throw new Error(`${found}: this page reads format ${FORMAT}, words`);
  }
  const [rows, vocabulary, merges, config, base, adapter] = await Promise.all([
    file("rows.json").then((found) => found.json()),
    file("vocab.json").then((found) => found.json()),
    file("merges.txt").then((found) => found.text()),
    file("config.json").then((found) => found.arrayBuffer()),
    file("model.safetensors").then((found) => found.arrayBuffer()),
    file(about.adapter).then((found) => found.arrayBuffer()),
  ]);
  await check("model.safetensors", about.base, config, base);
  Object.assign(state, { about, rows, adapterFile: adapter });
  const externalData = [
    { path: "model.safetensors", data: new Uint8Array(base) },
    { path: about.adapter, data: new Uint8Array(adapter) },
  ];
  for (const name of ["step.onnx", "eval.onnx"]) {
    const graph = await (await file(name)).arrayBuffer();
    await check(name, about.graphs[name], graph);
    state[name] = await ort.InferenceSession.create(graph, {
      executionProviders: ["wasm"],
      externalData,
    });
  }
  begin();
  return { about, rows, vocabulary, merges, memory: memoryBytes() };
}

async function file(name) {
  // no-cache: what a browser has kept is asked for anew, since a model may be built again
  const found = await fetch(new URL(`model/${name}`, import.meta.url), { cache: "no-cache" });
  if (!found.ok) {
    throw new Error(`model/${name}: ${found.status}. Build the page first: python build.py`);
  }
  return found;
}

/**
 * Check that a file is the one that tinyzo.json was written with, by the SHA-256 of `parts`. Only
 * pages of https or of localhost can tell.
 */
async function check(name, hash, ...parts) {
  if (!self.crypto?.subtle) {
    return;
  }
  const whole = await new Blob(parts).arrayBuffer();
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", whole));
  const found = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
  if (found !== hash) {
    throw new Error(`model/${name} is not the one that tinyzo.json names: build the page anew`);
  }
}

/** The adapter as it came. */
function begin() {
  state.trained = {};
  for (const [name, { key, shape }] of Object.entries(state.about.trained)) {
    state.trained[name] = new ort.Tensor("float32", readTensor(state.adapterFile, key), shape);
  }
  state.first = { ...state.trained };
}

// -- the model

/** Rows of token ids, filled up to the longest. */
function padded(rows) {
  const length = Math.max(...rows.map((row) => row.length));
  const shape = [rows.length, length];
  const ids = new BigInt64Array(rows.length * length);
  const mask = new BigInt64Array(rows.length * length);
  rows.forEach((row, at) => {
    ids.set(row.map(BigInt), at * length);
    mask.fill(1n, at * length, at * length + row.length);
  });
  return {
    input_ids: new ort.Tensor("int64", ids, shape),
    attention_mask: new ort.Tensor("int64", mask, shape),
  };
}

const integers = (values) =>
  new ort.Tensor("int64", BigInt64Array.from(values, BigInt), [values.length]);
const number = (value) => new ort.Tensor("float64", [value], []);

/** One step on these training rows. The graph does it all: losses of 2 q probes, g, the new B. */
async function step({ rows, seeds, lr, eps }) {
  const began = performance.now();
  const examples = rows.map((row) => state.rows.train[row]);
  const found = await state["step.onnx"].run({
    ...padded(examples.map((example) => example.input_ids)),
    ...state.trained,
    labels: integers(examples.map((example) => example.label)),
    seeds: integers(seeds),
    lr: number(lr),
    eps: number(eps),
  });
  const losses = Array.from(found.losses.data);
  if (!losses.every(Number.isFinite)) {
    throw new Error("a loss is not finite: begin again with a smaller learning rate");
  }
  for (const name of Object.keys(state.trained)) {
    state.trained[name] = found[`${name}.next`];
  }
  const projectedGradients = Array.from(found.projected_gradients.data);
  const seconds = (performance.now() - began) / 1000;
  return { losses, projectedGradients, seconds, memory: memoryBytes() };
}

/** Log-softmax of each row's scores of the labels. */
async function logProbabilities(rows, trained) {
  const found = await state["eval.onnx"].run({ ...padded(rows), ...trained });
  const labels = found.scores.dims[1];
  return rows.map((_, at) => {
    const scores = Array.from(found.scores.data.subarray(at * labels, (at + 1) * labels));
    const most = Math.max(...scores);
    const logSum = most + Math.log(scores.reduce((sum, s) => sum + Math.exp(s - most), 0));
    return scores.map((score) => score - logSum);
  });
}

/** Accuracy and mean loss on the test rows. */
async function evaluate() {
  const { test } = state.rows;
  let right = 0;
  let loss = 0;
  for (let start = 0; start < test.length; start += EVALUATED_AT_ONCE) {
    const part = test.slice(start, start + EVALUATED_AT_ONCE);
    const found = await logProbabilities(part.map((row) => row.input_ids), state.trained);
    part.forEach(({ label }, at) => {
      right += found[at].indexOf(Math.max(...found[at])) === label;
      loss -= found[at][label];
    });
  }
  return { accuracy: right / test.length, loss: loss / test.length };
}

/** The probabilities of the labels for one row, before tuning and now. */
async function score({ row }) {
  const probabilities = async (trained) => {
    const [found] = await logProbabilities([row], trained);
    return found.map(Math.exp);
  };
  return { before: await probabilities(state.first), now: await probabilities(state.trained) };
}

/** The tuned adapter, as safetensors. */
function adapter() {
  const values = Object.entries(state.trained).map(([name, { data }]) => [
    state.about.trained[name].key,
    data,
  ]);
  return withTensors(state.adapterFile, Object.fromEntries(values));
}

const memoryBytes = () => memory?.buffer.byteLength ?? null;
