"use strict";
// The browser of samples: search, filters, paging, and one question at a time in full.
//
// All texts come from models and question files, and none is trusted: they reach the page through `make` and `append`, as text, and
// nothing here parses HTML. A question's details are built when it is opened, so that a page of thousands stays quick.
(() => {
  const data = JSON.parse(document.getElementById("samples-data").textContent);
  const place = document.getElementById("samples-browser");
  const PER_PAGE = 20;
  const WORDS = { correct: "right", wrong: "wrong", unparsed: "unread", truncated: "truncated", looping: "truncated in a loop" };
  const SIGNS = { correct: "✓", wrong: "✗", unparsed: "?", truncated: "…", looping: "∞" };
  const MODELS = ["base", "student", "teacher"].filter((name) => data.entries.some((entry) => entry[name]));
  const isTraining = (entry) => entry.set === 0;
  const isRight = (entry, model) => entry[model]?.outcome === "correct";

  // An element with properties and children; a child that is no element becomes text.
  function make(tag, properties = {}, ...children) {
    const node = Object.assign(document.createElement(tag), properties);
    node.append(...children.filter((child) => child !== null).map((child) => (child instanceof Node ? child : String(child))));
    return node;
  }

  const named = (set) => (set.group === "train" ? "training questions" : `${set.name} (${set.group.toUpperCase()})`);
  const number = (value, digits) => (value === null || value === undefined ? "–" : value.toFixed(digits).replace("-", "−"));
  const percent = (value) => (value === null || value === undefined ? "–" : `${(100 * value).toFixed(0)} %`);

  // ---- What is asked for: the set, who, the outcome, the comparison or the fate of a training question, and words.

  const here = new Map(); // set -> how many of its questions this page has
  for (const entry of data.entries) here.set(entry.set, (here.get(entry.set) ?? 0) + 1);
  const evaluated = data.entries.filter((entry) => !isTraining(entry)).length;
  const sets = [...here].map(([set, count]) => [`set ${set}`, `${named(data.sets[set])}: ${count}`, (entry) => entry.set === set]);
  if (here.size > 2) sets.splice(here.has(0) ? 1 : 0, 0, ["all", `all evaluation sets: ${evaluated}`, (entry) => !isTraining(entry)]);

  const pairs = [["any", "any", () => true]];
  for (const one of MODELS)
    for (const other of MODELS)
      if (one !== other)
        pairs.push([`${one} ${other}`, `${one} right, ${other} not`, (entry) => isRight(entry, one) && !isRight(entry, other)]);
  pairs.push(["all right", "all right", (entry) => MODELS.every((model) => isRight(entry, model))]);
  pairs.push(["none right", "none right", (entry) => !MODELS.some((model) => isRight(entry, model))]);

  const states = [...new Set(data.entries.filter((entry) => entry.training).map((entry) => entry.training.state))].sort();
  const fates = [["any", "any", () => true], ...states.map((state) => [state, state, (entry) => entry.training?.state === state])];

  // The graded texts of a question: [who wrote it, text].
  function graded(entry) {
    if (!isTraining(entry)) return MODELS.filter((model) => entry[model]).map((model) => [model, entry[model]]);
    return (entry.training?.rationales ?? []).map((one) => [data.perspectives[one.perspective], one]);
  }

  const everyone = (training) => (training ? data.perspectives : MODELS);
  const outcomes = [["any", "any"], ...Object.entries(WORDS)];

  function chooser(id, title, options, changed) {
    const select = make("select", { id, onchange: changed }, ...options.map(([value, words]) => make("option", { value }, words)));
    return [make("label", { htmlFor: id }, title, select), select];
  }

  // ---- The controls.

  let first = 0; // the first question shown, among those found
  let timer = 0;
  const restart = () => {
    first = 0;
    show();
  };
  const [setLabel, setSelect] = chooser("samples-set", "Set", sets, () => {
    adapt();
    restart();
  });
  const [whoLabel, whoSelect] = chooser("samples-who", "Written by", [], restart);
  const [outcomeLabel, outcomeSelect] = chooser("samples-outcome", "Outcome", outcomes, restart);
  const [pairLabel, pairSelect] = chooser("samples-pair", "Comparison", pairs, restart);
  const [fateLabel, fateSelect] = chooser("samples-fate", "Question", fates, restart);
  const search = make("input", {
    id: "samples-search",
    type: "search",
    autocomplete: "off",
    placeholder: "words in ids, prompts and answers",
    oninput: () => {
      clearTimeout(timer);
      timer = setTimeout(restart, 200);
    },
  });
  const searchLabel = make("label", { htmlFor: search.id, className: "search" }, "Search", search);
  const count = make("output", { className: "count" });
  const list = make("div", { className: "list" });
  const previous = make("button", { type: "button", onclick: () => turn(-PER_PAGE) }, "Previous");
  const next = make("button", { type: "button", onclick: () => turn(PER_PAGE) }, "Next");

  const training = () => setSelect.value === "set 0";

  // The controls that fit the set: perspectives and fates of training questions, models and comparisons of the others.
  function adapt() {
    const options = [["any", "any"], ...everyone(training()).map((name, index) => [`who ${index}`, name])];
    whoSelect.replaceChildren(...options.map(([value, words]) => make("option", { value }, words)));
    whoLabel.firstChild.data = training() ? "Perspective" : "Model";
    pairLabel.hidden = training();
    fateLabel.hidden = !training();
  }

  const texts = new Map(); // entry -> its words in lower case, made at the first search
  function words(entry) {
    if (!texts.has(entry)) {
      const { id, prompt, gold } = entry.question;
      const said = graded(entry).flatMap(([, one]) => [one.read ?? "", one.text]);
      texts.set(entry, [id, prompt, gold, ...said].join("\n").toLowerCase());
    }
    return texts.get(entry);
  }

  function found() {
    const inSet = sets.find(([value]) => value === setSelect.value)[2];
    const [options, select] = training() ? [fates, fateSelect] : [pairs, pairSelect];
    const fits = options.find(([value]) => value === select.value)[2];
    const who = whoSelect.value === "any" ? null : everyone(training())[Number(whoSelect.value.slice(4))];
    const outcome = outcomeSelect.value;
    const wanted = search.value.toLowerCase().trim();
    return data.entries.filter((entry) => {
      if (!inSet(entry) || !fits(entry)) return false;
      const some = ([name, one]) => (who === null || name === who) && (outcome === "any" || one.outcome === outcome);
      if ((who !== null || outcome !== "any") && !graded(entry).some(some)) return false;
      return wanted === "" || words(entry).includes(wanted);
    });
  }

  // ---- A question in full.

  function fact(title, ...values) {
    return make("span", { className: "fact" }, make("span", { className: "soft" }, title), " ", ...values);
  }

  function verdict(one) {
    return make("span", { className: `verdict ${one.outcome}` }, `${SIGNS[one.outcome] ?? ""} ${WORDS[one.outcome] ?? one.outcome}`);
  }

  function how(one) {
    const read = one.read === null ? "nothing" : one.read;
    return [fact("read as", make("b", {}, read), one.rule ? ` (${one.rule})` : ""), fact("tokens", one.tokens ?? "–")];
  }

  function weightBar(title, value) {
    const filled = make("span", { className: "filled" });
    filled.style.width = `${100 * (value ?? 0)}%`;
    return make("div", { className: "weight" }, make("span", { className: "soft" }, title), make("span", { className: "bar" }, filled), percent(value));
  }

  function rationale(one) {
    const kept = one.why === "kept";
    const name = data.perspectives[one.perspective] + (one.sample ? `, sample ${one.sample + 1}` : "");
    const head = make("header", {}, make("h4", {}, name), verdict(one), make("span", { className: "soft" }, kept ? "kept" : `not kept: ${one.why}`));
    const facts = [...how(one)];
    if (kept) {
      const last = `${number(one.last_loss, 3)} (${one.steps} steps)`;
      facts.push(fact("loss, base → last measured", `${number(one.base_loss, 3)} → ${last}`));
      facts.push(fact("score, start → end", `${number(one.scores[0], 2)} → ${number(one.scores[1], 2)}`));
    }
    const bars = kept ? [weightBar("weight, start", one.weights[0]), weightBar("weight, end", one.weights[1])] : [];
    return make("article", { className: kept ? "card" : "card dropped" }, head, ...bars, make("div", {}, ...facts), make("pre", {}, one.text));
  }

  function answer(model, one) {
    const head = make("header", {}, make("h4", {}, model), verdict(one));
    return make("article", { className: "card" }, head, make("div", {}, ...how(one)), make("pre", {}, one.text));
  }

  function details(entry) {
    const { prompt, gold, task, repeats } = entry.question;
    const facts = [fact("reference answer", make("b", {}, gold)), task ? fact("task", task) : null];
    const cards = make("div", { className: isTraining(entry) ? "cards" : "cards answers" });
    const parts = [make("pre", { className: "prompt" }, prompt), make("div", {}, ...facts), cards];
    if (!isTraining(entry)) {
      if (repeats) parts[1].append(fact("also in", repeats));
      cards.append(...graded(entry).map(([model, one]) => answer(model, one)));
      return parts;
    }
    const { attempts, state, rationales, left_out } = entry.training ?? { attempts: null, state: "no samples", rationales: [], left_out: 0 };
    parts[1].append(fact("base solves", attempts ? `${attempts[0]} of ${attempts[1]} attempts` : "not attempted"), fact("question", state));
    cards.append(...rationales.map(rationale));
    if (left_out) parts.push(make("p", { className: "soft" }, `${left_out} more samples of this question are not shown.`));
    return parts;
  }

  // A sign for each text: of a training question one per perspective, the first of it that is shown (the kept one, if any).
  function signs(entry) {
    const seen = new Set();
    const said = graded(entry).filter(([name]) => !seen.has(name) && seen.add(name));
    const row = said.map(([name, one]) => {
      const faint = isTraining(entry) && one.why !== "kept" ? " faint" : "";
      const label = isTraining(entry) ? SIGNS[one.outcome] ?? "" : `${name} ${SIGNS[one.outcome] ?? ""}`;
      return make("span", { className: `sign ${one.outcome}${faint}`, title: `${name}: ${WORDS[one.outcome] ?? one.outcome}` }, label);
    });
    return make("span", { className: "signs" }, ...row);
  }

  function question(entry) {
    const start = entry.question.prompt.slice(0, 300);
    const summary = make("summary", {}, make("code", {}, entry.question.id), signs(entry), make("span", { className: "start" }, start));
    const node = make("details", {}, summary);
    node.addEventListener("toggle", () => node.open && node.childElementCount === 1 && node.append(...details(entry)));
    return node;
  }

  // ---- Paging.

  function show() {
    const all = found();
    count.textContent = all.length ? `${first + 1} to ${Math.min(first + PER_PAGE, all.length)} of ${all.length} questions` : "No question fits.";
    list.replaceChildren(...all.slice(first, first + PER_PAGE).map(question));
    previous.disabled = first === 0;
    next.disabled = first + PER_PAGE >= all.length;
  }

  function turn(step) {
    first = Math.max(0, first + step);
    show();
    place.scrollIntoView();
  }

  const filters = make("div", { className: "filters" }, setLabel, whoLabel, outcomeLabel, pairLabel, fateLabel, searchLabel);
  count.setAttribute("aria-live", "polite");
  place.replaceChildren(filters, count, list, make("nav", { className: "turn", ariaLabel: "Pages of samples" }, previous, next));
  adapt();
  show();
})();
