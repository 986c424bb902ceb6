/** The adapter's file: tensors are read from it, and put into a copy of it. */

/** The header: {name: {dtype, shape, data_offsets}}, and where the data begin. */
function headerOf(buffer) {
  const length = Number(new DataView(buffer).getBigUint64(0, true));
  const text = new TextDecoder().decode(new Uint8Array(buffer, 8, length));
  return { header: JSON.parse(text), start: 8 + length };
}

/** One float32 tensor: Float32Array. */
export function readTensor(buffer, name) {
  const { header, start } = headerOf(buffer);
  const { dtype, data_offsets: [from, to] } = header[name];
  if (dtype !== "F32") {
    throw new Error(`${name} is ${dtype} in the adapter's file: export it anew, as F32`);
  }
  return new Float32Array(buffer.slice(start + from, start + to));
}

/** The same file with other values in some of its tensors. values: {name: Float32Array} */
export function withTensors(buffer, values) {
  const { header, start } = headerOf(buffer);
  const copy = buffer.slice(0);
  for (const [name, value] of Object.entries(values)) {
    const [from, to] = header[name].data_offsets;
    new Uint8Array(copy, start + from, to - from).set(
      new Uint8Array(value.buffer, value.byteOffset, value.byteLength),
    );
  }
  return copy;
}
