// What to type to take part from a terminal.

import { $, el } from "./dom.js";

export function startShell() {
  const address = location.origin;
  const commands = [
    ["Say something to everybody", "gripway publish chat 'hello'"],
    ["A note on the ticker", "gripway publish ticker $'data: hello\\n'"],
    ["Follow the ticker", `curl -N ${address}/ticker`],
    ["Wait for an answer", `curl '${address}/poll?wait'`],
    ["Answer", `curl -d choice=0 ${address}/poll`],
  ];
  $("commands").append(...commands.map(([what, command]) => {
    const button = el("button", { type: "button", "aria-label": `Copy: ${what}` }, "Copy");
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(command);
        button.textContent = "Copied";
      } catch {
        button.textContent = "Select it";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
    return el("li", {}, el("span", { class: "what" }, what), el("code", {}, command), button);
  }));
}
