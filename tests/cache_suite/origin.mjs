// Starts the origin of the public cache suite, as it is, but for where it listens: on loopback alone, and on a port that
// is free, which is the first line of the output. What it prints itself goes to the other stream. It ends with its input.
//
//     node origin.mjs FOLDER    FOLDER has the suite in its node_modules

import net from 'node:net'
import path from 'node:path'
import process from 'node:process'
import { pathToFileURL } from 'node:url'

const suite = path.resolve(process.argv[2], 'node_modules/http-cache-tests')

const listen = net.Server.prototype.listen
net.Server.prototype.listen = function (port) {
  this.once('listening', () => process.stdout.write(`${this.address().port}\n`))
  return listen.call(this, port, '127.0.0.1')
}
console.log = console.error
process.stdin.resume().on('end', () => process.exit())

// The suite expects to be started by npm, which passes its settings like this.
Object.assign(process.env, { npm_config_protocol: 'http', npm_config_port: '0', npm_config_pidfile: '/dev/null' })
// Paths that are not of a test are files of the suite.
process.chdir(suite)
await import(pathToFileURL(path.join(suite, 'server/server.mjs')))
