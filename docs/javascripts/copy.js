// The copy button takes what a reader would type: the lines behind >>> and ... of an example, without what it prints.
document.addEventListener("click", (event) => {
  const button = event.target.closest(".md-clipboard, .md-code__button");
  const code = button && button.closest(".highlight, pre, div")?.querySelector("code");
  if (!code || !/^>>> /m.test(code.textContent)) return;
  const lines = code.textContent.split("\n").filter((line) => /^(>>>|\.\.\.)( |$)/.test(line));
  event.preventDefault();
  event.stopImmediatePropagation();
  navigator.clipboard.writeText(lines.map((line) => line.slice(4)).join("\n"));
}, true);
