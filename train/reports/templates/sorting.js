"use strict";
// Tables of three rows and more are sorted by a click (or Enter) on a column's head: numbers by size, else text.
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  if (!table.tHead || !body || body.rows.length < 3) continue;
  const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  const number = cell => {
    const found = cell.textContent.replace(/,/g, "").replace("\u2212", "-").match(/^\s*[<+]?\s*(-?\d+(\.\d+)?(e-?\d+)?)/);
    return found ? Number(found[1]) : NaN;
  };
  heads.forEach((head, column) => {
    const sort = () => {
      const down = head.getAttribute("aria-sort") !== "descending";
      const rows = [...body.rows];
      const numeric = column > 0 && rows.some(row => !Number.isNaN(number(row.cells[column])));
      rows.sort((a, b) => {
        const [x, y] = [a.cells[column], b.cells[column]];
        if (!numeric) return (down ? 1 : -1) * x.textContent.localeCompare(y.textContent);
        const [p, q] = [number(x), number(y)];
        if (Number.isNaN(p) || Number.isNaN(q)) return Number.isNaN(p) - Number.isNaN(q); // dashes last
        return down ? q - p : p - q;
      });
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      body.append(...rows);
    };
    head.classList.add("sortable");
    head.tabIndex = 0;
    head.addEventListener("click", sort);
    head.addEventListener("keydown", event => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); sort(); }
    });
  });
}
