// Fine-tunes a language model with an inference engine and nothing else.
//
//     node tune.mjs OUT ADAPTER [STEPS]
//
// OUT is what `tinyzo export --format onnx` wrote; ADAPTER is a new folder, for tinyzo and peft. A
// step is one run of a graph: rows, seeds and the adapter in, losses and the next adapter out.

import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { InferenceSession, Tensor } from 'onnxruntime-node';

const FORMAT = 1; // of tinyzo.json
const NOISE_FORMAT = 1; // of the directions that the graph makes of seeds
const GRAPHS = ['step.onnx', 'eval.onnx'];
// Without a plan of its memory, for which the runtime keeps more than a step needs.
const OPTIONS = { enableMemPattern: false };

const sum = (values) => values.reduce((total, value) => total + value, 0);
const readJson = (...names) => JSON.parse(fs.readFileSync(path.join(...names), 'utf8'));

async function sha256(folder, ...names) {
  const hash = createHash('sha256');
  for (const name of names) {
    for await (const block of fs.createReadStream(path.join(folder, name))) hash.update(block);
  }
  return hash.digest('hex');
}

/** What tinyzo.json says of its folder, if that is so, and this program can use it. */
async function openFolder(folder) {
  const about = readJson(folder, 'tinyzo.json');
  const check = (what, found, wanted) => {
    if (found === wanted) return;
    throw new Error(`${folder}: ${what} is ${found}, not ${wanted}: export the folder again`);
  };
  check('format', about.format, FORMAT);
  check('noise_format', about.noise_format, NOISE_FORMAT);
  for (const name of GRAPHS) check(name, await sha256(folder, name), about.graphs[name]);
  check('base', await sha256(folder, 'config.json', 'model.safetensors'), about.base);
  return about;
}

/** The bytes of a safetensors file, and the tensors that are trained, which are views of them. */
function openAdapter(file, trained) {
  const { buffer } = new Uint8Array(fs.readFileSync(file));
  const start = 8 + Number(new DataView(buffer).getBigUint64(0, true)); // 8: the header's length
  const header = JSON.parse(Buffer.from(buffer, 8, start - 8).toString());
  const tensors = {};
  for (const [name, { key, shape }] of Object.entries(trained)) {
    const [first, end] = header[key].data_offsets;
    const numbers = new Float32Array(buffer, start + first, (end - first) / 4);
    tensors[name] = new Tensor('float32', numbers, shape);
  }
  return { buffer, tensors };
}

/** Writes the adapter as it is now, and the two files that name its base. */
function writeAdapter(output, folder, about, buffer) {
  const write = (name, content) => fs.writeFileSync(path.join(output, name), content);
  const config = readJson(folder, path.dirname(about.adapter), 'adapter_config.json');
  config.base_model_name_or_path = path.resolve(folder);
  const origin = { base: path.relative(output, folder), sha256: about.base };
  write('adapter_config.json', JSON.stringify(config, null, 2));
  write('tinyzo.json', JSON.stringify(origin, null, 2));
  write('adapter_model.safetensors', new Uint8Array(buffer));
}

/** So many examples as they come; after the last one, the first. */
function taken(examples, first, count) {
  return Array.from({ length: count }, (_, at) => examples[(first + at) % examples.length]);
}

/** An example's rows: one if a label word is asked for; else one a candidate, or the gold one's. */
function rowsOf({ input_ids, targets, label }, kind) {
  if (kind === 'words') return [{ ids: input_ids }];
  const rows = input_ids.map((ids, candidate) => ({ ids, targets: targets[candidate] }));
  return kind === 'gold' ? [rows[label]] : rows;
}

/** The inputs that are rows, filled up with zeros: to the longest, or to the graph's own length. */
function batchOf(examples, about, kind = about.kind) {
  const rows = examples.flatMap((example) => rowsOf(example, kind));
  const [, length] = about.signatures['step.onnx'].inputs.input_ids.shape; // a name: any length
  const tokens = Math.max(Number(length) || 0, ...rows.map(({ ids }) => ids.length));
  const filled = (list) => [...list, ...Array(tokens - list.length).fill(0)];
  const tensor = (lists) => new Tensor('int64', lists.flatMap(filled), [rows.length, tokens]);
  const batch = { input_ids: tensor(rows.map(({ ids }) => ids)) };
  batch.attention_mask = tensor(rows.map(({ ids }) => ids.map(() => 1)));
  if (kind !== 'words') batch.targets = tensor(rows.map(({ targets }) => targets));
  return batch;
}

/** Loss and accuracy: means over the examples; of kind gold, the loss's over its tokens. */
async function evaluate(session, about, tensors, examples) {
  const isGold = about.kind === 'gold';
  let [loss, count, right] = [0, 0, 0];
  for (let first = 0; first < examples.length; first += about.batch_size) {
    const part = taken(examples, first, about.batch_size);
    const batch = batchOf(part, about, isGold ? 'candidates' : about.kind);
    const { scores } = await session.run({ ...batch, ...tensors });
    const width = scores.size / part.length;
    part.slice(0, examples.length - first).forEach(({ label, targets }, at) => {
      const own = [...scores.data.subarray(at * width, (at + 1) * width)];
      const weight = isGold ? sum(targets[label]) : 1;
      const logTotal = isGold ? 0 : Math.log(sum(own.map(Math.exp)));
      loss += weight * (logTotal - own[label]);
      count += weight;
      if (own.indexOf(Math.max(...own)) === label) right += 1;
    });
  }
  return `loss ${(loss / count).toFixed(6)}  accuracy ${(right / examples.length).toFixed(4)}`;
}

/** The seed of a query: any 64 bits would do; 53 are what every JSON reader keeps. */
const seedOf = (seed, query) =>
  Number(createHash('sha256').update(`${seed} ${query}`).digest().readBigUInt64LE() >> 11n);

const [folder, output, steps = 10] = process.argv.slice(2);
const about = await openFolder(folder);
const { batch_size: size, queries } = about;
const { train, test } = readJson(folder, 'rows.json');
const { buffer, tensors } = openAdapter(path.join(folder, about.adapter), about.trained);
const stepGraph = await InferenceSession.create(path.join(folder, 'step.onnx'), OPTIONS);
const evalGraph = await InferenceSession.create(path.join(folder, 'eval.onnx'), OPTIONS);
fs.mkdirSync(output);
console.log(`before  ${await evaluate(evalGraph, about, tensors, test)}`);
for (let step = 0; step < steps; step += 1) {
  const examples = taken(train, step * size, size);
  const labels = examples.map(({ label }) => label);
  const seeds = Array.from({ length: queries }, (_, at) => seedOf(about.seed, step * queries + at));
  const found = await stepGraph.run({
    ...batchOf(examples, about),
    ...tensors,
    labels: new Tensor('int64', labels, [size]),
    seeds: new Tensor('int64', seeds, [queries]),
    lr: new Tensor('float64', [about.lr], []),
    eps: new Tensor('float64', [about.eps], []),
  });
  for (const name in tensors) tensors[name].data.set(found[`${name}.next`].data);
  const { losses, projected_gradients: gradients } = found;
  const told = { step, seeds, losses: [...losses.data], projected_gradients: [...gradients.data] };
  fs.appendFileSync(path.join(output, 'steps.jsonl'), `${JSON.stringify(told)}\n`);
  console.log(`step ${step}  loss ${(sum(told.losses) / losses.size).toFixed(6)}`);
}
console.log(`after   ${await evaluate(evalGraph, about, tensors, test)}`);
writeAdapter(output, folder, about, buffer);
if (process.platform === 'linux') {
  console.log(fs.readFileSync('/proc/self/status', 'utf8').match(/RssAnon.*\nRssFile.*/)[0]);
}
