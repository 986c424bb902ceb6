/** A chart of a run, drawn by hand: the losses above, the accuracy below, over the same steps. */

const MARGIN = { left: 46, right: 10, top: 10, bottom: 26 };
const GAP = 26; // between the panels
const SHARE = 0.64; // of the height, for the losses
const SMOOTHED = 12; // steps: of 16 rows, an epoch of the reviews
const FIRST_SMOOTHED = 4; // means of fewer steps tell of their rows only
const LEAST_STEPS = 30; // that the axis is for

/** The mean of each value and those before it. */
function smoothed(values, count = SMOOTHED) {
  return values.map((_, at) => mean(values.slice(Math.max(0, at + 1 - count), at + 1)));
}

export const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

/** About `count` round numbers within a range. */
function ticks([low, high], count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const found = [];
  for (let at = Math.ceil(low / step); at * step <= high + step * 1e-6; at++) {
    found.push(at * step);
  }
  return found;
}

/**
 * Draw a run.
 *
 * svg:         the element, whose size on the page counts
 * losses:      of each step, those of its probes
 * evaluations: [{step, accuracy, loss}], the first from before the first step
 */
export function draw(svg, losses, evaluations) {
  const { clientWidth: width, clientHeight: height } = svg;
  const right = width - MARGIN.right;
  const inner = height - MARGIN.top - MARGIN.bottom - GAP;
  const lossPanel = [MARGIN.top + SHARE * inner, MARGIN.top];
  const accuracyPanel = [height - MARGIN.bottom, lossPanel[0] + GAP];

  const steps = [0, Math.max(LEAST_STEPS, losses.length)];
  const lossRange = rangeOf([...losses.flat(), ...evaluations.map(({ loss }) => loss)]);
  const accuracyRange = [lowestAccuracy(evaluations), 1];
  const x = scale(steps, [MARGIN.left, right]);
  const y = scale(lossRange, lossPanel);
  const share = scale(accuracyRange, accuracyPanel);

  const marks = [];
  const add = (name, attributes, text = "") => marks.push(element(name, attributes, text));
  const line = (name, points) => {
    const moves = points.map(([a, b], at) => `${at ? "L" : "M"}${a} ${b}`);
    add("path", { class: name, d: moves.join("") });
  };
  const marked = (name, points) => {
    line(name, points);
    points.forEach(([cx, cy]) => add("circle", { class: `${name}-mark`, cx, cy, r: 3.5 }));
  };
  const label = (text, a, b, anchor) => add("text", { x: a, y: b, "text-anchor": anchor }, text);

  const grid = (values, place, format) => {
    for (const value of values) {
      add("path", { class: "grid", d: `M${MARGIN.left} ${place(value)}H${right}` });
      label(format(value), MARGIN.left - 8, place(value) + 4, "end");
    }
  };
  const digits = lossRange[1] - lossRange[0] < 0.5 ? 2 : 1;
  grid(ticks(lossRange, 5), y, (value) => value.toFixed(digits));
  grid(ticks(accuracyRange, 3), share, (value) => `${Math.round(100 * value)} %`);
  const wholeSteps = ticks(steps, width / 70).filter(Number.isInteger);
  for (const step of wholeSteps) {
    label(step, x(step), height - 6, "middle");
  }

  const dots = losses.flatMap((each, at) => each.map((loss) => `M${x(at + 1)} ${y(loss)}h0`));
  add("path", { class: "probes", d: dots.join("") });
  const means = smoothed(losses.map(mean)).map((loss, at) => [x(at + 1), y(loss)]);
  line("loss", means.slice(FIRST_SMOOTHED));
  marked("test", evaluations.map(({ step, loss }) => [x(step), y(loss)]));
  if (evaluations.length) {
    const before = share(evaluations[0].accuracy);
    add("path", { class: "before", d: `M${MARGIN.left} ${before}H${right}` });
  }
  marked("accuracy", evaluations.map(({ step, accuracy }) => [x(step), share(accuracy)]));
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.replaceChildren(...marks);
}

/** What the axis of the losses is for: all of them, and a little more. */
function rangeOf(losses) {
  const low = Math.min(...losses);
  const high = Math.max(...losses);
  const room = Math.max(0.1, 0.08 * (high - low));
  return losses.length ? [Math.max(0, low - room), high + room] : [0, 1];
}

function lowestAccuracy(evaluations) {
  const lowest = Math.min(0.6, ...evaluations.map(({ accuracy }) => accuracy));
  return Math.max(0, Math.floor(10 * lowest - 1) / 10);
}

/** A linear map of one range to another. */
function scale([low, high], [from, to]) {
  return (value) => Math.round(10 * (from + ((value - low) / (high - low)) * (to - from))) / 10;
}

function element(name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [attribute, value] of Object.entries(attributes)) {
    made.setAttribute(attribute, value);
  }
  made.textContent = text;
  return made;
}
