// What is opened on a card or in a menu closes by Escape, by a click elsewhere, and on one of its entries.
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || document.querySelector("dialog[open]")) return;
  const open =
    event.target.closest?.("details[open]") ||
    document.querySelector(".drop-menu[open], .card-menu[open]");
  if (!open?.matches(".drop-menu, .card-menu")) return;
  open.open = false;
  open.querySelector("summary").focus();
});
document.addEventListener("click", ({ target }) => {
  for (const menu of document.querySelectorAll(".drop-menu[open], .card-menu[open]")) {
    const isEntry = menu.contains(target) && target.closest("a, button");
    // A dialog of the entry gives the focus back to what had it: the entry is hidden then.
    if (isEntry && menu.matches(".drop-menu")) menu.querySelector("summary").focus();
    if (isEntry || !(menu.closest(".card") || menu).contains(target)) menu.open = false;
  }
});
