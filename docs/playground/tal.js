// The task-aligned assigner for one image, every stage shown. No dependency; runs in browsers and in Node.
//
// The playground (index.html) draws what `assign` returns, and examples/javascript/run.mjs writes it for test vectors, by
// which TAL Conformance judges it. Clauses are those of docs/specification.md. A: anchors, C: classes, M: ground truths.
"use strict";

const TAL = (() => {
  const EPS = 1e-7;    // IOU-1
  const INSIDE = 1e-9; // TAL-CAND-1

  // Choices in which releases differ: sides below `below` are widened to `to`, given the first two strides (TAL-CAND-2);
  // and the pairs whose overlap is computed (TAL-CONF-1).
  const DIALECTS = {
    "ultralytics-8.4.190": {words: "8.4.128 and newer", floor: (first, second) => [second, second]},
    "ultralytics-8.4.127": {words: "8.4.0 to 8.4.127", floor: (first, second) => [first, second]},
    "ultralytics-8.3.253": {words: "8.0.52 to 8.3.253, and the article", floor: () => [0, 0]},
    "ultralytics-8.0.51": {words: "before 8.0.52", floor: () => [0, 0], everywhere: true},
  };

  // Return the parts of the complete IoU of two boxes [x1, y1, x2, y2] (IOU-1); `ciou` is iou - distance - shape.
  function overlapParts(truth, box) {
    const w = truth[2] - truth[0], h = truth[3] - truth[1] + EPS;
    const W = box[2] - box[0], H = box[3] - box[1] + EPS;
    const across = Math.min(truth[2], box[2]) - Math.max(truth[0], box[0]);
    const down = Math.min(truth[3], box[3]) - Math.max(truth[1], box[1]);
    const shared = Math.max(0, across) * Math.max(0, down);
    const iou = shared / (w * h + W * H - shared + EPS);
    const diagonal = (Math.max(truth[2], box[2]) - Math.min(truth[0], box[0])) ** 2
      + (Math.max(truth[3], box[3]) - Math.min(truth[1], box[1])) ** 2 + EPS;
    const apart = ((truth[0] + truth[2] - box[0] - box[2]) ** 2 + (truth[1] + truth[3] - box[1] - box[3]) ** 2) / 4;
    const v = 4 / Math.PI ** 2 * (Math.atan(W / H) - Math.atan(w / h)) ** 2;
    const distance = apart / diagonal, shape = v * v / (1 - iou + v + EPS);
    return {iou, distance, shape, ciou: iou - distance - shape};
  }

  // Return the box with sides below the floor widened about its centre (TAL-CAND-2).
  function widened(box, [below, to]) {
    const grown = [...box];
    for (const axis of [0, 1]) {
      const centre = (box[axis] + box[axis + 2]) / 2;
      if (box[axis + 2] - box[axis] < below) {
        grown[axis] = centre - to / 2;
        grown[axis + 2] = centre + to / 2;
      }
    }
    return grown;
  }

  // Return the indices of the k largest values (TAL-TOPK-1). Equal values are taken in their order; T1 allows any.
  function topK(values, k) {
    const order = Array.from(values, (_, index) => index);
    order.sort((one, other) => values[other] - values[one] || one - other);
    return order.slice(0, k);
  }

  // Assign the ground truths of one image to its anchors.
  //
  // image.scores[a][c]   predicted class scores after the sigmoid
  // image.boxes[a]       predicted boxes [x1, y1, x2, y2] in pixels
  // image.anchors[a]     anchor centres [x, y] in pixels
  // image.labels[g], image.truths[g], image.real[g]   class, box in pixels, and false for padding (ANN-3)
  // settings             {topk, alpha, beta, topk2, strides, dialect}
  //
  // Return the targets of every anchor and every stage as matrices [g][a].
  function assign(image, settings) {
    const {scores, boxes, anchors, labels, truths} = image;
    const count = anchors.length, M = truths.length;
    const {topk, alpha, beta, strides} = settings;
    const topk2 = settings.topk2 ?? topk;
    const dialect = DIALECTS[settings.dialect ?? "ultralytics-8.4.190"];
    const targets = Array.from({length: count}, () => ({foreground: false, truth: 0, label: 0, box: [0, 0, 0, 0], weight: 0}));
    const stages = {widened: [], candidates: [], score: [], overlap: [], metric: [], selected: [], positives: []};
    if (!M) return {targets, stages}; // TAL-EMPTY-1
    if (Math.max(topk, topk2) > count) throw new RangeError(`top ${Math.max(topk, topk2)} of ${count} anchors`); // TAL-TOPK-2
    const floor = dialect.floor(strides[0], strides[Math.min(1, strides.length - 1)]);

    for (let g = 0; g < M; g++) {
      const [x1, y1, x2, y2] = stages.widened[g] = widened(truths[g], floor);
      const real = image.real ? image.real[g] : true;
      stages.candidates[g] = anchors.map(([x, y]) => real && Math.min(x - x1, y - y1, x2 - x, y2 - y) > INSIDE);
      const computed = stages.candidates[g].map((is) => is || Boolean(dialect.everywhere));
      stages.score[g] = computed.map((is, a) => is ? scores[a][labels[g]] : 0);
      stages.overlap[g] = computed.map((is, a) => is ? Math.max(0, overlapParts(truths[g], boxes[a]).ciou) : 0);
      stages.metric[g] = computed.map((is, a) => is ? stages.score[g][a] ** alpha * stages.overlap[g][a] ** beta : 0); // TAL-MET-1
      const rivals = stages.metric[g].map((metric, a) => stages.candidates[g][a] ? metric : 0);
      stages.selected[g] = new Array(count).fill(false);
      for (const a of topK(rivals, topk)) stages.selected[g][a] = stages.candidates[g][a]; // TAL-TOPK-1
      stages.positives[g] = [...stages.selected[g]];
    }

    for (let a = 0; a < count; a++) { // TAL-CONF-1: the largest overlap of all ground truths wins a contested anchor
      if (stages.selected.filter((row) => row[a]).length < 2) continue;
      let winner = 0;
      for (let g = 1; g < M; g++) if (stages.overlap[g][a] > stages.overlap[winner][a]) winner = g;
      for (let g = 0; g < M; g++) stages.positives[g][a] = g === winner;
    }

    for (let g = 0; g < M; g++) {
      const own = stages.positives[g];
      if (topk2 !== topk) { // TAL-CONF-2
        const kept = new Set(topK(stages.metric[g].map((metric, a) => own[a] ? metric : 0), topk2));
        for (let a = 0; a < count; a++) own[a] = own[a] && kept.has(a);
      }
      let bestMetric = 0, bestOverlap = 0; // TAL-NORM-1
      for (let a = 0; a < count; a++) {
        if (!own[a]) continue;
        bestMetric = Math.max(bestMetric, stages.metric[g][a]);
        bestOverlap = Math.max(bestOverlap, stages.overlap[g][a]);
      }
      for (let a = 0; a < count; a++) {
        if (!own[a] || targets[a].foreground) continue;
        const weight = stages.metric[g][a] * bestOverlap / (bestMetric + 1e-9);
        targets[a] = {foreground: true, truth: g, label: labels[g], box: truths[g], weight}; // TAL-TGT-1
      }
    }
    return {targets, stages};
  }

  return {assign, overlapParts, widened, topK, DIALECTS};
})();

if (typeof module !== "undefined") module.exports = TAL;
