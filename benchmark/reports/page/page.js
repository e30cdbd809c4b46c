/* Switches between views, sorts tables, keeps both in the address. Every word on the page was
   written and escaped beforehand: nothing here makes markup out of data. */
"use strict";
document.documentElement.className = "js";

addEventListener("DOMContentLoaded", () => {
  const switches = [...document.querySelectorAll(".switch")];
  const keys = switches.map((group) => group.dataset.key);
  const blocks = [...document.querySelectorAll(".block")];
  const views = blocks.filter((block) => !block.classList.contains("curves"));
  let wanted = {};

  /** Narrow the views key by key: the value that is asked for where there is one, else the first. */
  function chosen() {
    let left = views;
    const state = {}, choices = {};
    for (const key of keys) {
      const values = [...new Set(left.map((view) => view.dataset[key]))];
      state[key] = values.includes(wanted[key]) ? wanted[key] : values[0];
      choices[key] = values;
      left = left.filter((view) => view.dataset[key] === state[key]);
    }
    return [state, choices];
  }

  function show() {
    const [state, choices] = chosen();
    const names = [];
    for (const group of switches) {
      const key = group.dataset.key, values = choices[key];
      group.hidden = values.length < 2;
      for (const button of group.querySelectorAll("button")) {
        const value = button.dataset.value, on = value === state[key];
        button.hidden = !values.includes(value);
        button.setAttribute("aria-pressed", on);
        if (on && !group.hidden) names.push(button.textContent);
      }
    }
    for (const block of blocks) {
      const fits = keys.every((key) => !(key in block.dataset) || block.dataset[key] === state[key]);
      block.classList.toggle("shown", fits);
    }
    document.querySelector(".status").textContent = `Shown: ${names.join(", ")}`;
    const told = keys.filter((key) => choices[key].length > 1).map((key) => [key, state[key]]);
    return new URLSearchParams(told).toString();
  }

  function read() {
    wanted = { ...wanted, ...Object.fromEntries(new URLSearchParams(location.hash.slice(1))) };
    show();
  }

  for (const group of switches) {
    group.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button) return;
      wanted[group.dataset.key] = button.dataset.value;
      location.hash = show();
    });
  }
  addEventListener("hashchange", read);
  read();

  /** What a cell is sorted by: its first number, else its text; missing things come last. */
  function rank(cell) {
    const text = cell.textContent.trim();
    if (text === "" || text === "-") return [2, 0];
    if (cell.tagName === "TH") return [1, text.toLowerCase()];
    const number = /^[<>(+]*(-?[\d.,]+)/.exec(text);
    return number ? [0, parseFloat(number[1].replaceAll(",", ""))] : [1, text.toLowerCase()];
  }

  function sort(table, th) {
    const column = th.cellIndex;
    const before = th.getAttribute("aria-sort");
    const down = before ? before === "ascending" : th.dataset.first !== "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    th.setAttribute("aria-sort", down ? "descending" : "ascending");
    for (const body of table.tBodies) {
      const rows = [...body.rows].filter((row) => !row.classList.contains("block-name"));
      const ranks = new Map(rows.map((row) => [row, rank(row.cells[column])]));
      rows.sort((a, b) => {
        const [kind, x] = ranks.get(a), [other, y] = ranks.get(b);
        if (kind !== other) return kind - other;
        return (x < y ? -1 : x > y ? 1 : 0) * (down ? -1 : 1);
      });
      body.append(...rows);
    }
  }

  for (const table of document.querySelectorAll(".sortable")) {
    for (const th of table.tHead.rows[0].cells) {
      if ("fixed" in th.dataset) continue;
      const button = document.createElement("button");
      button.type = "button";
      button.append(...th.childNodes);
      button.addEventListener("click", () => sort(table, th));
      th.append(button);
    }
  }
});
