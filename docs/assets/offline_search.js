// Browsers start no worker from a file. Where the site is opened as a file, a hidden frame of the page runs the script of
// the search in a worker's place: what is posted to it becomes a message there, and what it posts comes back as one.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      this.waiting = []
      const frame = document.createElement("iframe")
      frame.hidden = true
      document.body.appendChild(frame)
      const inside = frame.contentWindow
      const load = (path) =>
        new Promise((resolve, reject) => {
          const script = frame.contentDocument.createElement("script")
          script.src = new URL(path, new URL(url, location))
          script.onload = resolve
          script.onerror = reject
          frame.contentDocument.body.appendChild(script)
        })
      inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }))
      inside.importScripts = (...paths) => paths.reduce((before, path) => before.then(() => load(path)), Promise.resolve())
      this.deliver = (data) => inside.dispatchEvent(new inside.MessageEvent("message", { data }))
      load("").then(() => {
        this.ready = true
        this.waiting.splice(0).forEach(this.deliver)
      })
    }
    postMessage(data) {
      if (this.ready) this.deliver(data)
      else this.waiting.push(data)
    }
    terminate() {}
  }
}
