"use strict";
(() => {
  const FIRST = 200;
  const heads = [
    ["name"], ["group"], ["type"], ["shape"], ["parameters", true], ["updates", true], ["planes"],
  ];
  const all = JSON.parse(document.getElementById("tensor-data").textContent);
  const hasStatistics = all.length > 0 && all[0].length > 7;
  if (hasStatistics) heads.push(["std", true], ["update ratio", true], ["not finite", true]);
  const PLANES = 10;
  const table = document.getElementById("tensors");
  const search = document.getElementById("search");
  const found = document.getElementById("found");
  const more = document.getElementById("more");
  const grouped = (number) => number.toLocaleString("en-US");
  const short = (number) => number === null ? "" : Number.isInteger(number) ? grouped(number) : number.toPrecision(3);
  let column = -1, direction = 1, limit = FIRST;

  // Text only: whatever a name says, it is no markup.
  const element = (tag, text, isNumber) => {
    const made = document.createElement(tag);
    made.textContent = text;
    if (isNumber) made.className = "n";
    return made;
  };

  // Histograms of the planes of a tensor, by powers of two.
  const NS = "http://www.w3.org/2000/svg";
  const details = (tensor) => {
    const row = document.createElement("tr");
    const cell = element("td", "");
    cell.colSpan = heads.length;
    const pictures = element("div", "");
    pictures.className = "planes";
    for (const [plane, words, path, bars, low, high] of tensor[PLANES]) {
      const figure = document.createElement("figure");
      figure.append(element("figcaption", plane));
      if (path) {
        const svg = document.createElementNS(NS, "svg");
        svg.setAttribute("viewBox", `0 0 ${bars} 24`);
        svg.setAttribute("preserveAspectRatio", "none");
        svg.setAttribute("class", "histogram");
        const drawn = document.createElementNS(NS, "path");
        drawn.setAttribute("d", path);
        drawn.setAttribute("class", "b0");
        svg.append(drawn);
        const scale = element("p", "");
        scale.className = "scale note";
        for (const [sign, power] of [["-", high], ["\u00b1", low], ["", high]]) {
          const end = element("span", `${sign}2`);
          end.append(element("sup", String(power)));
          scale.append(end);
        }
        figure.append(svg, scale);
      }
      const note = element("p", words);
      note.className = "note";
      figure.append(note);
      pictures.append(figure);
    }
    cell.append(pictures);
    row.append(cell);
    return row;
  };

  const rowOf = (tensor) => {
    const row = document.createElement("tr");
    row.append(...heads.map(([, isNumber], at) =>
      element("td", isNumber ? short(tensor[at]) : tensor[at], isNumber)));
    if (tensor[PLANES]) {
      const button = element("button", tensor[0]);
      button.type = "button";
      button.setAttribute("aria-expanded", "false");
      let shown = null;
      button.addEventListener("click", () => {
        if (shown) {
          shown.remove();
          shown = null;
        } else {
          shown = details(tensor);
          row.after(shown);
        }
        button.setAttribute("aria-expanded", String(shown !== null));
      });
      row.firstChild.replaceChildren(button);
    }
    return row;
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
    const rows = shown.slice(0, limit).map(rowOf);
    table.tBodies[0].replaceChildren(...rows);
    found.textContent = words.length ? `${grouped(shown.length)} of ${grouped(all.length)}` : grouped(all.length);
    more.hidden = shown.length <= limit;
    more.textContent = `Show all ${grouped(shown.length)}`;
  };
  search.addEventListener("input", () => { limit = FIRST; draw(); });
  more.addEventListener("click", () => { limit = Infinity; draw(); });
  draw();
  // The largest one shows that there is something behind the names.
  if (hasStatistics) {
    const most = all.reduce((a, b) => b[PLANES] && (!a[PLANES] || b[4] > a[4]) ? b : a);
    const at = all.indexOf(most);
    if (at < FIRST) table.tBodies[0].rows[at].querySelector("button")?.click();
  }
})();
