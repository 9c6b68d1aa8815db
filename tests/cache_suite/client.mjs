// Runs the tests of the public cache suite, as they are, through the cache at a URL, and prints a JSON list of what came
// of each. With ids it runs these alone, and shows their requests and answers on the other stream.
//
//     node client.mjs FOLDER URL [ID...]    FOLDER has the suite in its node_modules
//
// The command line of the suite itself does not say of which kind a test is, waits for ever for an answer that does not
// come, and runs one test or all.

import { createRequire } from 'node:module'
import path from 'node:path'
import process from 'node:process'
import { pathToFileURL } from 'node:url'

// Far beyond any answer; the longest has no length, and its connection stays open for 6 s.
const ANSWER_MS_MAX = 20_000

const [folder, base, ...ids] = process.argv.slice(2)
const suite = path.resolve(folder, 'node_modules/http-cache-tests')
const ofSuite = file => import(pathToFileURL(path.join(suite, file)))
const fetch = createRequire(path.join(suite, 'cli.mjs'))('node-fetch')

const { runTests, getResults } = await ofSuite('client/runner.mjs')
// `Surrogate-Control` is not among them, as it is not on the suite's pages: RFC 9213 has replaced it.
const { default: groups } = await ofSuite('tests/index.mjs')

const chosen = groups
  .map(group => ({ ...group, tests: group.tests.filter(test => !test.browser_only) }))
  .map(group => ids.length ? { ...group, tests: group.tests.filter(test => ids.includes(test.id)) } : group)
const tests = chosen.flatMap(group => group.tests)

console.log = console.error
for (const test of tests) test.dump = ids.length > 0

await runTests(chosen, (url, init) => fetch(url, { ...init, timeout: ANSWER_MS_MAX }), false, base)

// What the suite calls a setup is what has to hold before the test means anything.
const verdicts = { Assertion: 'failed', Setup: 'not_set_up' }
const results = getResults()
const outcomes = tests.map(({ id, kind = 'required', depends_on: needs = [] }) => {
  if (results[id] === true) return { id, kind, needs, verdict: 'passed', message: '' }
  const [error, message] = results[id]
  return { id, kind, needs, verdict: verdicts[error] ?? 'broke_off', message }
})
process.stdout.write(JSON.stringify(outcomes) + '\n')
