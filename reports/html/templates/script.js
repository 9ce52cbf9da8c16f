"use strict";
// The page is complete without this script, which adds the filter and the copy buttons.
const cards = [...document.querySelectorAll("details.card")].map((card) => ({
  card,
  tokens: Object.fromEntries(card.dataset.tokens.split("\n").map((line) => {
    const [key, ...values] = line.split("\t");
    return [key, values];
  })),
  text: null,
}));
const form = document.querySelector(".filter");
const input = document.getElementById("filter");
const shown = document.getElementById("shown");
const openAll = document.getElementById("open-all");
const PREFIX = "#filter=";
const FEW = 3; // cards that need no filter

// `impl:"my assigner" clause:TAL-CONF words` as a list of {key, value}; key is "" for a plain word.
function parsed(query) {
  const found = query.matchAll(/(?:(\w+):)?(?:"((?:[^"\\]|\\.)*)"?|(\S+))/gs);
  return [...found].map(([, key, quoted, plain]) => ({
    key: key in cards[0].tokens ? key : "",
    value: (key && !(key in cards[0].tokens) ? `${key}:` : "") + (quoted?.replace(/\\(.)/gs, "$1") ?? plain),
  }));
}

// A token matches its exact value if some card has it, otherwise any value that contains it.
function test({ key, value }) {
  const wanted = value.toLowerCase();
  if (!key) {
    return (entry) => (entry.text ??= entry.card.textContent.toLowerCase()).includes(wanted);
  }
  const equal = (have) => have.toLowerCase() === wanted;
  const exact = cards.some((entry) => entry.tokens[key].some(equal));
  return (entry) => entry.tokens[key].some(exact ? equal : (have) => have.toLowerCase().includes(wanted));
}

// Tokens of one key are alternatives; different keys, and every word, must all match.
function filter(query) {
  const alternatives = new Map();
  for (const [number, token] of parsed(query).entries()) {
    const name = token.key || `word ${number}`;
    alternatives.set(name, [...(alternatives.get(name) ?? []), test(token)]);
  }
  const groups = [...alternatives.values()];
  const matching = cards.filter((entry) => groups.every((tests) => tests.some((matches) => matches(entry))));
  for (const { card } of cards) {
    card.hidden = true;
  }
  for (const { card } of matching) {
    card.hidden = false;
  }
  shown.textContent = groups.length ? `${matching.length} of ${cards.length} shown` : "";
  return matching;
}

function fragment() {
  try {
    return decodeURIComponent(location.hash);
  } catch {
    return location.hash; // a percent sign that does not begin an escape
  }
}

// `#case:0a5910e6fcde` alone is a filter too: a link that can be written by hand.
function bare(text) {
  const key = /^(\w+):/.exec(text)?.[1];
  return key && key in cards[0].tokens ? text : null;
}

function follow() {
  const target = fragment();
  const query = target.startsWith(PREFIX) ? target.slice(PREFIX.length) : bare(target.slice(1));
  if (query !== null) {
    form.hidden = false;
    input.value = query;
    const matching = filter(input.value);
    if (matching.length === 1) {
      matching[0].card.open = true;
    }
    document.getElementById(matching[0]?.card.closest("section").id ?? "disagreements").scrollIntoView();
    return;
  }
  const card = target.length > 1 && document.getElementById(target.slice(1));
  if (card && card.matches("details.card")) {
    input.value = "";
    filter("");
    card.open = true;
    card.scrollIntoView();
  }
}

function sayWhatItDoes() {
  const open = cards.some(({ card }) => !card.hidden && !card.open);
  openAll.textContent = open ? "Open all" : "Close all";
}

if (cards.length) {
  form.hidden = cards.length <= FEW;
  form.addEventListener("submit", (event) => event.preventDefault());
  input.addEventListener("input", () => {
    filter(input.value);
    const hash = input.value ? PREFIX + encodeURIComponent(input.value) : location.pathname + location.search;
    history.replaceState(null, "", hash);
  });
  openAll.addEventListener("click", () => {
    const visible = cards.filter(({ card }) => !card.hidden);
    const open = visible.some(({ card }) => !card.open);
    for (const { card } of visible) {
      card.open = open;
    }
    sayWhatItDoes();
  });
  for (const { card } of cards) {
    card.addEventListener("toggle", sayWhatItDoes);
  }
  addEventListener("hashchange", follow);
  follow();
}

async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false; // not allowed by the browser: the text is selected instead
  }
}

for (const button of document.querySelectorAll(".copy")) {
  const pre = button.previousElementSibling;
  button.hidden = false;
  button.addEventListener("click", async () => {
    const done = await copied(pre.textContent);
    if (!done) {
      getSelection().selectAllChildren(pre);
    }
    button.textContent = done ? "Copied" : "Selected";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
}

// Pointing at an anchor of a picture, or reaching it with the arrow keys, shows its explanation below, and its box.
const SVG = "http://www.w3.org/2000/svg";

function made(svg, name, kind) {
  const shape = document.createElementNS(SVG, name);
  shape.setAttribute("class", kind);
  shape.setAttribute("visibility", "hidden");
  svg.insertBefore(shape, svg.querySelector(".spots"));
  return shape;
}

function viewer(picture) {
  const svg = picture.querySelector("svg");
  const spots = [...svg.querySelectorAll(".spots circle")];
  const words = new Map([...picture.querySelectorAll(".why li")].map((one) => [one.dataset.a, one]));
  const ring = made(svg, "circle", "here");
  const box = made(svg, "rect", "predicted");
  const panel = document.createElement("div");
  panel.className = "now";
  panel.setAttribute("role", "status");
  panel.innerHTML = "<p class='soft'>Point at an anchor, or walk with the arrow keys: why it has its ground truth, or none.</p>";
  picture.querySelector(".why").before(panel);
  let pinned = null;

  function show(spot) {
    for (const name of ["cx", "cy", "r"]) {
      ring.setAttribute(name, spot.getAttribute(name));
    }
    ring.setAttribute("visibility", "visible");
    const edges = spot.dataset.box?.split(" ");
    ["x", "y", "width", "height"].forEach((name, at) => edges && box.setAttribute(name, edges[at]));
    box.setAttribute("transform", spot.dataset.turn ?? "");
    box.setAttribute("visibility", edges ? "visible" : "hidden");
    panel.replaceChildren(...[...words.get(spot.dataset.a).children].map((line) => line.cloneNode(true)));
  }

  function pin(spot) {
    pinned = spot;
    show(spot);
  }

  for (const spot of spots) {
    spot.addEventListener("pointerenter", () => show(spot));
    spot.addEventListener("click", () => pin(spot));
  }
  svg.addEventListener("pointerleave", () => pinned && show(pinned));
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (step) {
      event.preventDefault();
      const at = spots.indexOf(pinned);
      pin(spots[at < 0 ? (step > 0 ? 0 : spots.length - 1) : (at + spots.length + step) % spots.length]);
    }
  });
  const ringed = svg.querySelector(".m.focus circle");
  const first = ringed && spots.find((spot) => ["cx", "cy"].every((name) => spot.getAttribute(name) === ringed.getAttribute(name)));
  if (first) {
    pin(first);
  }
}

// Only when the card is opened, so that a page with hundreds of cards loads quickly.
function prepare(card) {
  for (const picture of card.querySelectorAll(".picture:not(.ready)")) {
    if (picture.querySelector(".why")) {
      picture.classList.add("ready");
      picture.querySelector("svg").setAttribute("tabindex", "0");
      viewer(picture);
    }
  }
}

for (const { card } of cards) {
  card.addEventListener("toggle", () => card.open && prepare(card));
  if (card.open) {
    prepare(card);
  }
}
