/** Seeds and rows of a step, as pure functions of a seed and the step's number: tinyzo's own. */

const MASK = (1n << 64n) - 1n;

/** One step of Steele, Lea & Flood's generator: 64 bits in, 64 well-mixed bits out. */
function splitmix64(x) {
  x = (x + 0x9e3779b97f4a7c15n) & MASK;
  x = ((x ^ (x >> 30n)) * 0xbf58476d1ce4e5b9n) & MASK;
  x = ((x ^ (x >> 27n)) * 0x94d049bb133111ebn) & MASK;
  return x ^ (x >> 31n);
}

/** The seed of one direction z: tinyzo's `noise.step_seed`. 53 bits, which JSON keeps whole. */
export function stepSeed(seed, number) {
  return splitmix64(splitmix64(BigInt(seed)) ^ BigInt(number)) >> 11n;
}

/** The rows that a step reads: each epoch is another permutation, and no row is left out. */
export function batchRows(step, rows, size, seed) {
  const stepsPerEpoch = Math.ceil(rows / size);
  const epoch = Math.floor(step / stepsPerEpoch);
  const epochSeed = stepSeed(seed, epoch);
  const order = Array.from({ length: rows }, (_, row) => [stepSeed(epochSeed, row), row]);
  order.sort(([a], [b]) => (a < b ? -1 : 1));
  const start = (step % stepsPerEpoch) * size;
  return order.slice(start, start + size).map(([, row]) => row);
}
