/** The page: what it shows, and what it asks of the worker, which computes. */

import { draw, mean } from "./chart.js";
import { batchRows, stepSeed } from "./seeds.js";
import { Tokenizer, encodeRow } from "./tokenizer.js";

const EVALUATED_EVERY = 10; // steps
const RECENT = 12; // steps, for the loss and the seconds that are shown

const $ = (id) => document.getElementById(id);
const settings = $("settings").elements;

// doing: idle, running, or stopping, until the step that is being taken is done
const run = { doing: "idle", steps: [], seconds: [], evaluations: [] };
let about; // tinyzo.json
let rows; // rows.json
let tokenizer;
let examples = 0; // that were shown
let answers = 0; // that were asked for

// -- the worker

const worker = new Worker("worker.js", { type: "module" });
const waiting = new Map();
let asked = 0;

function ask(name, given = {}) {
  const id = asked++;
  worker.postMessage({ id, ask: name, given });
  return new Promise((resolve, reject) => waiting.set(id, { resolve, reject }));
}

worker.onmessage = ({ data: { id, answer, error } }) => {
  const { resolve, reject } = waiting.get(id);
  waiting.delete(id);
  if (error === undefined) {
    resolve(answer);
  } else {
    reject(new Error(error));
  }
};
worker.onerror = () => fail(new Error("the worker did not start: was the page built, and served?"));

// -- the run

async function load() {
  const found = await ask("load");
  ({ about, rows } = found);
  settings.lr.value = about.lr;
  $("queries").textContent = about.queries;
  $("labels").textContent = ` (${about.labels.join(", ")})`;
  const tuned = Object.values(about.trained).map(({ shape }) => shape.reduce((a, b) => a * b));
  $("trained").textContent = tuned.reduce((a, b) => a + b).toLocaleString("en");
  showTask(found);
  await evaluate();
  showNumbers(found.memory);
  say("Ready. Press Start.");
  $("start").disabled = false;
}

async function startOrStop() {
  if (run.doing !== "idle") {
    run.doing = "stopping";
    return;
  }
  run.doing = "running";
  $("start").textContent = "Stop";
  say("Tuning…");
  while (run.doing === "running") {
    await step();
    if (run.steps.length % EVALUATED_EVERY === 0) {
      await evaluate();
    }
  }
  if (run.evaluations.at(-1).step !== run.steps.length) {
    await evaluate();
  }
  stopped();
  sayAccuracy("Stopped");
}

function stopped() {
  run.doing = "idle";
  $("start").textContent = "Start";
  showButtons();
}

/** Take a step: choose its rows and seeds, and put what the worker found on record. */
async function step() {
  if (!$("settings").checkValidity()) {
    throw new Error("one of the settings is out of range");
  }
  const seed = settings.seed.valueAsNumber;
  const number = run.steps.length;
  const given = {
    rows: batchRows(number, rows.train.length, settings.size.valueAsNumber, seed),
    seeds: Array.from({ length: about.queries }, (_, query) =>
      Number(stepSeed(seed, number * about.queries + query)),
    ),
    lr: settings.lr.valueAsNumber,
    eps: about.eps,
  };
  const { losses, projectedGradients, seconds, memory } = await ask("step", given);
  run.steps.push({ ...given, losses, projected_gradients: projectedGradients });
  run.seconds.push(seconds);
  showNumbers(memory);
}

async function evaluate() {
  const { accuracy, loss } = await ask("evaluate");
  run.evaluations.push({ step: run.steps.length, accuracy, loss });
  showAccuracy();
  await answer();
}

async function beginAgain() {
  await ask("begin");
  Object.assign(run, { steps: [], seconds: [], evaluations: [] });
  await evaluate();
  showNumbers();
  say("Ready. Press Start.");
}

/** Anything that goes wrong ends the run, and is said. */
function fail(error) {
  stopped();
  say(`It stopped: ${error.message}`, true);
}

// -- what is shown

function say(text, isError = false) {
  $("status").textContent = text;
  $("status").classList.toggle("error", isError);
}

const percent = (share) => `${(100 * share).toFixed(1)} %`;

function showNumbers(memory) {
  const { steps, seconds } = run;
  const hasSteps = steps.length > 0;
  const recent = steps.slice(-RECENT).map(({ losses }) => mean(losses));
  $("steps").textContent = steps.length;
  $("passes").textContent = (2 * about.queries * steps.length).toLocaleString("en");
  $("seconds").textContent = hasSteps ? median(seconds.slice(-RECENT)).toFixed(2) : "–";
  $("loss").textContent = hasSteps ? mean(recent).toFixed(3) : "–";
  if (memory) {
    $("memory").textContent = `${Math.round(memory / 1e6)} MB`;
  }
  showButtons();
  drawChart();
}

function showButtons() {
  const hasSteps = run.steps.length > 0;
  $("adapter").disabled = !hasSteps;
  $("journal").disabled = !hasSteps;
  $("again").disabled = !hasSteps || run.doing !== "idle";
}

function showAccuracy() {
  $("accuracy-before").textContent = percent(run.evaluations[0].accuracy);
  $("accuracy-now").textContent = percent(run.evaluations.at(-1).accuracy);
  if (run.steps.length > 0) {
    sayAccuracy("Tuning");
  }
  drawChart();
}

function sayAccuracy(doing) {
  const [before] = run.evaluations;
  const now = run.evaluations.at(-1);
  const found = `accuracy ${percent(now.accuracy)}, ${percent(before.accuracy)} before`;
  say(`${doing}: ${now.step} steps, ${found}.`);
  const losses = `test loss ${now.loss.toFixed(3)}, ${before.loss.toFixed(3)} before`;
  $("chart").setAttribute("aria-label", `Chart of ${now.step} steps: ${losses}; ${found}`);
}

function drawChart() {
  draw($("chart"), run.steps.map(({ losses }) => losses), run.evaluations);
}

function median(values) {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];
}

// -- a text of the user's

function showTask(found) {
  tokenizer = new Tokenizer(found.vocabulary, found.merges);
  if (encodeRow(about, tokenizer, 0, "") === null) {
    return; // a task with more columns than one text
  }
  $("try").hidden = false;
  for (const label of about.labels) {
    const line = $("answer").content.cloneNode(true);
    line.querySelector("th").textContent = label;
    $("answers").append(line);
  }
  showExample();
}

/** Put the next of the test reviews into the box. */
function showExample() {
  const { input_ids: ids } = rows.test[examples++ % rows.test.length];
  const [before, after] = about.template.replace(/\s*<mask>/, "").split("{text}");
  const text = tokenizer.decode(ids).slice(before.length);
  $("text").value = text.slice(0, text.length - after.length).trim();
}

async function answer() {
  if ($("try").hidden) {
    return;
  }
  const row = encodeRow(about, tokenizer, rows.train[0].input_ids[0], $("text").value);
  if (row.length >= about.max_tokens) {
    say(`The text is of ${row.length} tokens; the model takes ${about.max_tokens}.`, true);
    return;
  }
  const mine = ++answers;
  const { before, now } = await ask("score", { row });
  if (mine !== answers) {
    return; // the text has changed since
  }
  const best = Math.max(...now);
  Array.from($("answers").rows).forEach((line, label) => {
    line.classList.toggle("best", now[label] === best);
    line.querySelector(".bar div").style.width = `${100 * now[label]}%`;
    line.querySelector("span").textContent = percent(now[label]);
    line.querySelector(".was").textContent = percent(before[label]);
  });
}

// -- files

function download(name, contents) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([contents]));
  link.download = name;
  link.click();
  URL.revokeObjectURL(link.href);
}

async function downloadAdapter() {
  download("adapter_model.safetensors", await ask("adapter"));
}

function downloadJournal() {
  const { task, base, noise_format: noise } = about;
  const { steps, evaluations } = run;
  const journal = { task, base, noise_format: noise, steps, evaluations };
  download("journal.json", JSON.stringify(journal));
}

// -- begin

const on = (id, event, work) =>
  $(id).addEventListener(event, async () => {
    try {
      await work();
    } catch (error) {
      fail(error);
    }
  });

on("start", "click", startOrStop);
on("again", "click", beginAgain);
on("text", "input", answer);
on("adapter", "click", downloadAdapter);
on("journal", "click", downloadJournal);
on("example", "click", () => {
  showExample();
  return answer();
});
$("settings").addEventListener("submit", (event) => event.preventDefault());
new ResizeObserver(drawChart).observe($("chart"));
load().catch(fail);
