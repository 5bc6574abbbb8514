"use strict";
{
  const player = document.getElementById("player"), said = data.dialogues[0].utterances;
  const length = Number(document.querySelector(".timeline").dataset.seconds);
  const lines = document.querySelectorAll(".timeline .now"), rows = [...turns.children];
  const play = (i) => {
    if (!player || player.error) return;
    player.currentTime = said[i].start;
    player.play().catch(() => {});  // the browser may not let a page play by itself
  };
  rows.forEach((row, i) => {
    const own = row.querySelector(".own"), button = make("button", "play", `▶ ${said[i].at}`);
    button.type = "button";
    button.title = "play from here";
    button.addEventListener("click", () => play(i));
    own.firstChild?.remove();  // the time, which the button shows
    own.prepend(button);
  });
  for (const bar of document.querySelectorAll(".timeline [data-turn]")) {
    bar.addEventListener("click", () => {
      const i = Number(bar.dataset.turn);
      play(i);
      rows[i].scrollIntoView({ block: "center" });
      rows[i].focus({ preventScroll: true });
    });
  }
  if (player) {
    const unplayed = () => {
      document.getElementById("unplayed").hidden = false;
      player.hidden = true;
      for (const button of document.querySelectorAll("button.play")) button.disabled = true;
    };
    if (player.error) unplayed(); else player.addEventListener("error", unplayed);
    player.addEventListener("timeupdate", () => {
      const now = player.currentTime, place = 1000 * Math.min(1, now / length);
      for (const line of lines) {
        line.setAttribute("visibility", "visible");
        line.setAttribute("x1", place);
        line.setAttribute("x2", place);
      }
      rows.forEach((row, i) => row.classList.toggle("spoken", said[i].start <= now && now < said[i].end));
    });
  }
}
