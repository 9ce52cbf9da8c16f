// Write the outcomes of the playground's assigner for test vectors:
//
//     tal-conformance export vectors --profile dev
//     node examples/javascript/run.mjs vectors            # writes vectors/outcomes/javascript
//     tal-conformance judge vectors
import {mkdirSync, readFileSync, writeFileSync} from "node:fs";
import {createRequire} from "node:module";
import {join} from "node:path";

const TAL = createRequire(import.meta.url)("../../docs/playground/tal.js");
const TYPES = {F64: Float64Array, F32: Float32Array, I32: Int32Array, U8: Uint8Array};

// Return the tensors of a safetensors file as {name: {shape, numbers}}.
function read(path) {
  const bytes = readFileSync(path), begin = 8 + Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.subarray(8, begin));
  const tensors = {};
  delete header.__metadata__;
  for (const [name, {dtype, shape, data_offsets: [from, to]}] of Object.entries(header)) {
    const copy = Uint8Array.from(bytes.subarray(begin + from, begin + to)).buffer;
    tensors[name] = {shape, numbers: new TYPES[dtype](copy)};
  }
  return tensors;
}

// Write tensors {name: {dtype, shape, numbers}} and texts as a safetensors file.
function write(path, tensors, texts) {
  const header = {__metadata__: texts}, parts = [];
  let end = 0;
  for (const [name, {dtype, shape, numbers}] of Object.entries(tensors)) {
    const part = Buffer.from(numbers.buffer);
    header[name] = {dtype, shape, data_offsets: [end, end += part.length]};
    parts.push(part);
  }
  const text = Buffer.from(JSON.stringify(header)), length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  writeFileSync(path, Buffer.concat([length, text, ...parts]));
}

const rows = ({shape, numbers}, skip, width) => // rows of `width` numbers, from number `skip` on
  Array.from({length: shape.at(-2)}, (_, row) => Array.from(numbers.subarray(skip + row * width, skip + (row + 1) * width)));

// Return the tensors of a vector's outcome.
function outcome(folder, vector) {
  const inputs = read(join(folder, vector.inputs.file));
  const [B, A, C] = inputs.scores.shape, M = inputs.labels.shape[1];
  const labels = new Int32Array(B * A), index = new Int32Array(B * A), foreground = new Uint8Array(B * A);
  const boxes = new Float32Array(B * A * 4), scores = new Float32Array(B * A * C);
  for (let b = 0; b < B; b++) {
    const image = {
      scores: rows(inputs.scores, b * A * C, C), boxes: rows(inputs.boxes, b * A * 4, 4),
      anchors: rows(inputs.anchors, 0, 2), truths: rows(inputs.truth_boxes, b * M * 4, 4),
      labels: Array.from(inputs.labels.numbers.subarray(b * M, (b + 1) * M)),
      real: Array.from(inputs.truth_mask.numbers.subarray(b * M, (b + 1) * M), (number) => number > 0),
    };
    const {targets} = TAL.assign(image, {...vector.hyperparameters, strides: vector.head.strides});
    targets.forEach((target, a) => {
      const at = b * A + a;
      [labels[at], index[at], foreground[at]] = [target.label, target.truth, Number(target.foreground)];
      boxes.set(target.box, at * 4);
      scores[at * C + target.label] = target.weight;
    });
  }
  return {
    "assignment.labels": {dtype: "I32", shape: [B, A], numbers: labels},
    "assignment.truth_index": {dtype: "I32", shape: [B, A], numbers: index},
    "assignment.foreground": {dtype: "U8", shape: [B, A], numbers: foreground},
    "assignment.boxes": {dtype: "F32", shape: [B, A, 4], numbers: boxes},
    "assignment.scores": {dtype: "F32", shape: [B, A, C], numbers: scores},
  };
}

const folder = process.argv[2], own = join(folder, "outcomes", "javascript");
mkdirSync(own, {recursive: true});
for (const vector of JSON.parse(readFileSync(join(folder, "vectors.json"))).vectors) {
  const texts = {vector: vector.batch.sha256};
  let tensors = {};
  try {
    if (vector.dtype === "float32") tensors = outcome(folder, vector);
    else texts.unsupported = `${vector.dtype} under automatic mixed precision`;
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    texts.raised = error.message; // TAL-TOPK-2
  }
  write(join(own, `${vector.id}.safetensors`), tensors, texts);
}
const about = {schema: 1, name: "javascript", version: process.version, gives: ["assignment"]};
writeFileSync(join(own, "implementation.json"), JSON.stringify(about));
