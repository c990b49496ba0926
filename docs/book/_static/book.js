// What scrolls sideways can be reached with the Tab key and scrolled with the arrows.
function reachable() {
  for (const box of document.querySelectorAll(".bd-article table, .bd-article pre, .pst-scrollable-table-container")) {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
  }
}
addEventListener("load", reachable);
addEventListener("resize", reachable);
