// Keeps the page's sockets, and puts frames into them as the network would, for 50 jobs at a time.
(() => {
  const Plain = window.WebSocket, sockets = [];
  window.WebSocket = class extends Plain { constructor(url) { super(url); sockets.push(this); } };
  let given = 0;
  const put = (path, frame) => {
    const data = JSON.stringify(frame);
    for (const socket of sockets) {
      if (socket.url.includes(path)) socket.onmessage(new MessageEvent("message", { data }));
    }
  };
  // The progress of whole jobs, four times a second on the list of groups, else ten times: returns how many frames were put.
  window.feed = async (path, jobs, group, seconds) => {
    const thrown = path.includes("monitor");  // together
    const frames = Math.round(seconds * (thrown ? 4 : 10));
    for (let frame = 1; frame <= frames; frame += 1) {
      const percent = (100 * frame) / frames;
      if (thrown) put(path, { type: "progress", children: jobs.map((job) => [group, job, percent]) });
      else for (const job of jobs) put(path, { type: "child_progress", job_id: job, progress: percent,
        current_step: "KSampler", steps_completed: Math.round(percent / 5), steps_total: 20 });
      await new Promise((resolve) => setTimeout(resolve, (1000 * seconds) / frames));
    }
    return frames;
  };

  // A day in a minute: so many updates of a page, 20 every 40 ms. Each has a progress, on the list of groups also that
  // of a job which ends then; each 20th reads a row, a card or the list again, each tenth of a group has a preview.
  const canvas = new OffscreenCanvas(96, 64);
  canvas.getContext("2d").fillRect(9, 9, 50, 40);
  const image = canvas.convertToBlob().then(async (blob) => btoa(String.fromCharCode(...new Uint8Array(await blob.arrayBuffer()))));
  window.feedDay = async (path, jobs, groups, until) => {
    const picture = await image;
    for (; given < until; given += 1) {
      if (given % 20 === 0) await new Promise((resolve) => setTimeout(resolve, 40));
      const job = jobs[given % jobs.length], progress = (given / 200) % 100;
      if (path.includes("monitor")) {
        put(path, { type: "progress", children: [[groups[0], job, progress], [groups[0], `j_${given}`, progress]] });
        if (given % 400 === 0) put(path, { type: "changed", group: groups[0] });
        else if (given % 20 === 0) put(path, { type: "event", group: groups[(given / 20) % groups.length], event: "child_progress" });
        continue;
      }
      put(path, { type: "child_progress", job_id: job, progress, current_step: `Node ${given}`, steps_completed: 1, steps_total: 20 });
      if (given % 10 === 0) put(path, { type: "child_preview", job_id: job, mime: "image/png", image: picture });
      if (given % 20 === 0) put(path, { type: "child_waiting", job_id: job });
    }
  };
})();
