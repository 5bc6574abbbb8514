"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const names = { 0: "positive", 1: "negative", used: "used" };
const colours = { positive: "var(--positive)", negative: "var(--negative)", used: "var(--used)" };
const turns = document.getElementById("turns"), which = document.getElementById("dialogue");
const modality = document.getElementById("modality"), graph = document.getElementById("graph");
const make = (tag, className, text) => {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;  // never as HTML: transcripts are untrusted
  return element;
};
const emotion = (index) => index < 0 ? "–" : data.labels[index];

function show() {
  const dialogue = data.dialogues[which.value];
  turns.replaceChildren(...dialogue.utterances.map((u, i) => {
    const row = make("li", u.true < 0 ? "" : u.true === u.predicted ? "right" : "wrong");
    row.tabIndex = 0;
    const who = make("span", "who", u.speaker), said = make("span", "said", u.text);
    who.dir = said.dir = "auto";
    row.append(who, said);
    const opinion = make("span", "opinion");
    opinion.append(make("span", u.true < 0 ? "" : u.true === u.predicted ? "yes" : "no", emotion(u.predicted)));
    opinion.append(` ${Math.round(100 * u.confidence)} %`, u.true < 0 ? (dialogue.labelled ? ", no label" : "") : u.true === u.predicted ? "" : `, true: ${emotion(u.true)}`);
    row.append(opinion);
    const own = make("span", "own small");
    if (u.at) own.append(make("span", "", u.at));
    data.modalities.forEach((name, m) => own.append(make("span", "", `${name}: ${emotion(u.own[m])}`)));
    row.append(own);
    row.addEventListener("mouseenter", () => showEdges(i));
    row.addEventListener("focus", () => showEdges(i));
    row.addEventListener("click", () => showEdges(i));
    return row;
  }));
}

function showEdges(i) {
  const dialogue = data.dialogues[which.value], rows = [...turns.children];
  for (const row of rows) { row.classList.remove("attended", "selected"); row.querySelector(".edges")?.remove(); }
  rows[i].classList.add("selected");
  if (!modality) return;
  const edges = (dialogue.edges[modality.value]?.[graph.value] ?? []).filter((edge) => edge[0] === i);
  const most = Math.max(1, ...edges.flatMap((edge) => edge.slice(2).map(Math.abs)));
  for (const [, j, ...weights] of edges) {
    const shown = make("span", "edges"), numbers = make("span", "numbers"), bars = make("span", "bars");
    weights.forEach((weight, k) => {
      const name = k === weights.length - 1 ? names.used : names[k];
      const number = make("span", "", (weight / 1000).toFixed(3)), bar = make("i");
      number.title = name;
      number.style.color = bar.style.background = colours[name];
      bar.style.width = `${100 * Math.abs(weight) / most}%`;
      numbers.append(number);
      bars.append(bar);
    });
    shown.append(numbers, bars);
    rows[j].classList.add("attended");
    rows[j].append(shown);
  }
}

if (which) {
  which.addEventListener("change", show);
  for (const control of [modality, graph]) control?.addEventListener("change", show);
  document.getElementById("previous").addEventListener("click", () => { which.selectedIndex = Math.max(0, which.selectedIndex - 1); show(); });
  document.getElementById("next").addEventListener("click", () => {
    which.selectedIndex = Math.min(which.options.length - 1, which.selectedIndex + 1); show(); });
  show();
}
