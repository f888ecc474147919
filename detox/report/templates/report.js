"use strict";
(function () {
  const holder = document.getElementById("examples");
  if (!holder) return;
  const groups = Array.from(holder.querySelectorAll(".group"));
  const tools = document.createElement("div");
  tools.className = "tools";
  const buttons = groups.map(function (group) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = group.dataset.name;
    button.addEventListener("click", function () { show(group); });
    tools.append(button);
    return button;
  });
  const search = document.createElement("input");
  search.type = "search";
  search.placeholder = "Find in these examples";
  search.setAttribute("aria-label", search.placeholder);
  search.addEventListener("input", find);
  tools.append(search);
  const none = document.createElement("p");
  none.textContent = "No example holds these words.";
  none.setAttribute("role", "status");
  holder.insertBefore(tools, groups[0]);
  tools.after(none);
  function show(chosen) {
    groups.forEach(function (group, i) {
      group.hidden = group !== chosen;
      buttons[i].setAttribute("aria-pressed", String(group === chosen));
    });
    find();
  }
  function find() {
    const words = search.value.trim().toLowerCase();
    let found = 0, shown = 0;
    holder.querySelectorAll(".more").forEach(function (more) { more.open = words !== ""; });
    groups.forEach(function (group) {
      group.querySelectorAll(".example").forEach(function (example) {
        example.hidden = !example.textContent.toLowerCase().includes(words);
        if (!group.hidden) { shown += 1; found += example.hidden ? 0 : 1; }
      });
    });
    none.hidden = found > 0 || shown === 0;
  }
  show(groups[0]);
})();
