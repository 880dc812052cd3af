"use strict";
(() => {
  const FIRST = 200;
  const heads = [
    ["name"], ["group"], ["type"], ["shape"], ["parameters", true], ["updates", true], ["planes"],
  ];
  const all = JSON.parse(document.getElementById("tensor-data").textContent);
  const table = document.getElementById("tensors");
  const search = document.getElementById("search");
  const found = document.getElementById("found");
  const more = document.getElementById("more");
  const grouped = (number) => number.toLocaleString("en-US");
  let column = -1, direction = 1, limit = FIRST;

  // Text only: whatever a name says, it is no markup.
  const element = (tag, text, isNumber) => {
    const made = document.createElement(tag);
    made.textContent = text;
    if (isNumber) made.className = "n";
    return made;
  };

  const buttons = heads.map(([name, isNumber], at) => {
    const head = element("th", "", isNumber);
    const button = element("button", name);
    button.type = "button";
    button.addEventListener("click", () => {
      direction = column === at ? -direction : isNumber ? -1 : 1;
      column = at;
      draw();
    });
    head.append(button);
    return head;
  });
  const row = document.createElement("tr");
  row.append(...buttons);
  table.tHead.append(row);

  const draw = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter((word) => word);
    const fits = (tensor) => {
      const text = `${tensor[0]} ${tensor[1]} ${tensor[2]} ${tensor[6]}`.toLowerCase();
      return words.every((word) => text.includes(word));
    };
    const shown = all.filter(fits);
    if (column >= 0) {
      const order = heads[column][1]
        ? (a, b) => a[column] - b[column]
        : (a, b) => a[column].localeCompare(b[column], "en", { numeric: true });
      shown.sort((a, b) => direction * order(a, b));
    }
    buttons.forEach((head, at) => {
      const isOurs = at === column;
      head.setAttribute("aria-sort", !isOurs ? "none" : direction > 0 ? "ascending" : "descending");
      head.firstChild.textContent = heads[at][0] + (!isOurs ? "" : direction > 0 ? " \u2191" : " \u2193");
    });
    const rows = shown.slice(0, limit).map((tensor) => {
      const row = document.createElement("tr");
      row.append(...heads.map(([, isNumber], at) =>
        element("td", isNumber ? grouped(tensor[at]) : tensor[at], isNumber)));
      return row;
    });
    table.tBodies[0].replaceChildren(...rows);
    found.textContent = words.length ? `${grouped(shown.length)} of ${grouped(all.length)}` : grouped(all.length);
    more.hidden = shown.length <= limit;
    more.textContent = `Show all ${grouped(shown.length)}`;
  };
  search.addEventListener("input", () => { limit = FIRST; draw(); });
  more.addEventListener("click", () => { limit = Infinity; draw(); });
  draw();
})();
