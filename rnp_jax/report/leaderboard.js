"use strict";
// Sorts, filters and pages the table of items. Everything is set as text; nothing is ever parsed as HTML.
(() => {
  const TEXT = 0, VALUE = 1, SMALL = 2, HREF = 3;
  const find = (id) => document.getElementById(id);
  const data = JSON.parse(find("data").textContent);
  const numbers = new Set(data.numbers);
  const items = find("items"), body = items.tBodies[0], heads = [...items.tHead.rows[0].cells];
  const selects = [...find("controls").querySelectorAll("select")];
  const collator = new Intl.Collator("en", { numeric: true });
  const haystacks = data.rows.map((row) => row.map((cell) => `${cell[TEXT]} ${cell[SMALL]}`).join(" ").toLowerCase());
  let order = data.rows.map((_, i) => i), shown = order, start = 0;

  function make(tag, text, className) {
    const element = document.createElement(tag);
    element.textContent = text;
    if (className) element.className = className;
    return element;
  }

  function show(cell, column) {
    const place = document.createElement(column ? "td" : "th");
    if (!column) place.scope = "row";
    const status = column === data.status;
    const text = make(cell[HREF] ? "a" : "span", cell[TEXT], status ? `badge ${data.levels[cell[TEXT]]}` : "");
    if (cell[HREF]) text.setAttribute("href", cell[HREF]);
    place.append(text);
    if (cell[SMALL]) place.append(make("small", cell[SMALL]));
    return place;
  }

  function draw() {
    const page = shown.slice(start, start + data.page);
    body.replaceChildren(
      ...page.map((i) => {
        const line = document.createElement("tr");
        line.append(...data.rows[i].map(show));
        return line;
      }),
    );
    const all = data.rows.length.toLocaleString("en"), found = shown.length.toLocaleString("en");
    const of = shown.length === data.rows.length ? all : `${found} (${all} in all)`;
    const [first, last] = [start + 1, start + page.length].map((n) => n.toLocaleString("en"));
    find("count").textContent = page.length ? `Items ${first}\u2013${last} of ${of}` : `None of ${all} items`;
    find("previous").disabled = start === 0;
    find("next").disabled = start + data.page >= shown.length;
  }

  function filter() {
    const words = find("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const chosen = selects.filter((each) => each.value).map((each) => [Number(each.dataset.column), each.value]);
    shown = order.filter(
      (i) =>
        chosen.every(([column, value]) => data.rows[i][column][TEXT] === value) &&
        words.every((word) => haystacks[i].includes(word)),
    );
    start = 0;
    draw();
  }

  function sort(column) {
    const direction = heads[column].getAttribute("aria-sort") === "ascending" ? -1 : 1;
    heads.forEach((head) => head.removeAttribute("aria-sort"));
    heads[column].setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
    const part = numbers.has(column) ? VALUE : TEXT;
    const compare = part === VALUE ? (a, b) => a - b : collator.compare;
    const absent = (value) => value === null || value === "";
    order = data.rows.map((_, i) => i).sort((i, j) => {
      const [a, b] = [i, j].map((k) => data.rows[k][column][part]);
      return absent(a) || absent(b) ? absent(a) - absent(b) || i - j : direction * compare(a, b) || i - j;
    });
    filter();
  }

  function turn(pages) {
    start += pages * data.page;
    draw();
    items.scrollIntoView({ block: "start" });
  }

  heads.forEach((head, column) => {
    const button = make("button", head.textContent);
    button.type = "button";
    button.addEventListener("click", () => sort(column));
    head.replaceChildren(button);
  });
  find("search").addEventListener("input", filter);
  selects.forEach((each) => each.addEventListener("change", filter));
  find("previous").addEventListener("click", () => turn(-1));
  find("next").addEventListener("click", () => turn(1));
  find("rest")?.remove();
  find("controls").hidden = false;
  filter(); // a browser may have kept what was typed before a reload
})();
