"use strict";
(() => {
  const key = (cell) => {
    const raw = cell.dataset.v ?? cell.textContent.trim();
    const number = raw === "" || raw === "–" ? NaN : Number(raw.replace(/,/g, ""));
    return { raw, number };
  };
  // Numbers by size, then texts; what is missing comes last in either direction.
  const order = (a, b, sign) => {
    const missing = (k) => k.raw === "" || k.raw === "–";
    if (missing(a) !== missing(b)) return missing(a) ? 1 : -1;
    if (!Number.isNaN(a.number) && !Number.isNaN(b.number)) return sign * (a.number - b.number);
    return sign * a.raw.localeCompare(b.raw, "en", { numeric: true });
  };
  const sort = (table, column) => {
    const heads = [...table.tHead.rows[0].cells];
    const up = heads[column].getAttribute("aria-sort") !== "ascending";
    heads.forEach((head) => head.removeAttribute("aria-sort"));
    heads[column].setAttribute("aria-sort", up ? "ascending" : "descending");
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => ({ row, key: key(row.cells[column]) }));
    rows.sort((a, b) => order(a.key, b.key, up ? 1 : -1));
    body.append(...rows.map((r) => r.row));
  };
  const csv = (table) => {
    const quote = (text) => (/[",\n]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text);
    return [...table.rows]
      .map((row) => [...row.cells].map((c) => quote(c.dataset.v ?? c.textContent.trim())).join(","))
      .join("\n") + "\n";
  };
  document.querySelectorAll("table").forEach((table) => {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      head.querySelector("button").addEventListener("click", () => sort(table, column));
    });
  });
  document.querySelectorAll(".csv").forEach((button) => {
    button.addEventListener("click", () => {
      const table = button.closest(".data").querySelector("table");
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([csv(table)], { type: "text/csv" }));
      link.download = `${table.dataset.name}.csv`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    });
  });
  document.querySelectorAll("button.key").forEach((button) => {
    button.addEventListener("click", () => {
      const shown = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(shown));
      button.closest("figure").querySelectorAll(`svg .e-${button.dataset.engine}`).forEach((part) => {
        part.style.display = shown ? "" : "none";
      });
    });
  });
  const root = document.documentElement;
  document.getElementById("theme").addEventListener("click", () => {
    const dark = root.dataset.theme
      ? root.dataset.theme === "dark"
      : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });
  window.edgeconvReport = { csv, sort };
})();
