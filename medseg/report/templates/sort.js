for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  table.querySelectorAll("th").forEach((head, column) => {
    const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
    const sort = () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      const order = (a, b) => {
        const x = value(a), y = value(b), p = parseFloat(x), q = parseFloat(y);
        if (head.classList.contains("n")) return (isNaN(p) - isNaN(q)) || (down ? q - p : p - q) || 0;
        return (down ? -1 : 1) * x.localeCompare(y, undefined, { numeric: true });
      };
      table.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      body.append(...[...body.rows].sort(order));
    };
    head.tabIndex = 0;
    head.addEventListener("click", sort);
    head.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
  });
}
