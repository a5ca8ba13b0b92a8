// What a service does with a stream, an object store and the services framework, with nats.go.
//
//	streams --server URL [--as FILE]
//
// Each step has a connection of its own, as the user of that name, whose password is its name, and
// prints a line of JSON: {"step": NAME, "error": null}, or what went wrong. With a FILE, only its
// steps run, each as a service: a list of {"step", "service", "seed_file"} in JSON. Written for nats.go 1.22,
// which is the version that Debian 12 has.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
)

const (
	filter = "events.orders.>"
	size   = 300000
	wait   = 3 * time.Second
)

type step func(*nats.Conn, nats.JetStreamContext) error

// pull takes messages of a pull consumer.
func pull(s *nats.Subscription, err error, count int) ([]*nats.Msg, error) {
	if err != nil {
		return nil, err
	}
	messages, err := s.Fetch(count, nats.MaxWait(wait))
	if err == nil && len(messages) != count {
		err = fmt.Errorf("%d messages instead of %d", len(messages), count)
	}
	return messages, err
}

// one acknowledges one message of a pull consumer.
func one(s *nats.Subscription, err error) error {
	messages, err := pull(s, err, 1)
	if err != nil {
		return err
	}
	return messages[0].Ack()
}

// next waits for messages that are pushed.
func next(s *nats.Subscription, err error, count int) (*nats.Msg, error) {
	if err != nil {
		return nil, err
	}
	var last *nats.Msg
	for i := 0; i < count; i++ {
		if last, err = s.NextMsg(wait); err != nil {
			return nil, err
		}
	}
	return last, nil
}

// store opens the object store.
func store(use func(nats.ObjectStore) error) step {
	return func(_ *nats.Conn, js nats.JetStreamContext) error {
		invoices, err := js.ObjectStore("invoices")
		if err != nil {
			return err
		}
		return use(invoices)
	}
}

func publish(_ *nats.Conn, js nats.JetStreamContext) error {
	_, err := js.Publish("events.orders.1", []byte("x"))
	return err
}

func publishAsync(_ *nats.Conn, js nats.JetStreamContext) error {
	future, err := js.PublishAsync("events.orders.1", []byte("x"))
	if err != nil {
		return err
	}
	select {
	case <-future.Ok():
		return nil
	case err := <-future.Err():
		return err
	case <-time.After(wait):
		return errors.New("no acknowledgement")
	}
}

func fetch(_ *nats.Conn, js nats.JetStreamContext) error {
	s, err := js.PullSubscribe(filter, "shipping", nats.Bind("EVENTS", "shipping"))
	messages, err := pull(s, err, 4)
	if err != nil {
		return err
	}
	for _, err := range []error{
		messages[0].Ack(), messages[1].AckSync(), messages[2].Nak(), messages[3].InProgress(), messages[3].Term(),
	} {
		if err != nil {
			return err
		}
	}
	return nil
}

func work(_ *nats.Conn, js nats.JetStreamContext) error {
	jobs := map[string]bool{}
	for worker := 0; worker < 2; worker++ {
		s, err := js.PullSubscribe("jobs.>", "workers", nats.Bind("JOBS", "workers"))
		messages, err := pull(s, err, 1)
		if err != nil {
			return err
		}
		if err := messages[0].AckSync(); err != nil {
			return err
		}
		jobs[string(messages[0].Data)] = true
	}
	if len(jobs) != 2 {
		return errors.New("one job came twice")
	}
	return nil
}

func subscribed(_ *nats.Conn, js nats.JetStreamContext) error {
	return one(js.PullSubscribe(filter, "shipping", nats.BindStream("EVENTS")))
}

func foundBySubject(_ *nats.Conn, js nats.JetStreamContext) error {
	return one(js.PullSubscribe(filter, "shipping"))
}

func ownDurable(_ *nats.Conn, js nats.JetStreamContext) error {
	return one(js.PullSubscribe(filter, "own", nats.BindStream("EVENTS")))
}

func orderedUnnamed(_ *nats.Conn, js nats.JetStreamContext) error {
	s, err := js.SubscribeSync(filter, nats.OrderedConsumer(), nats.BindStream("EVENTS"))
	_, err = next(s, err, 3)
	return err
}

func ephemeralUnnamed(_ *nats.Conn, js nats.JetStreamContext) error {
	return one(js.PullSubscribe(filter, "", nats.BindStream("EVENTS")))
}

func push(_ *nats.Conn, js nats.JetStreamContext) error {
	s, err := js.SubscribeSync(filter, nats.Bind("EVENTS", "pushed"))
	message, err := next(s, err, 1)
	if err != nil {
		return err
	}
	return message.AckSync()
}

func directGet(_ *nats.Conn, js nats.JetStreamContext) error {
	_, err := js.GetLastMsg("EVENTS", "events.orders.1", nats.DirectGet())
	return err
}

func put(invoices nats.ObjectStore) error {
	for i := 0; i < 2; i++ {
		meta := nats.ObjectMeta{Name: "a"}
		if _, err := invoices.Put(&meta, bytes.NewReader(make([]byte, size))); err != nil {
			return err
		}
	}
	return nil
}

// get waits until the library has deleted its consumer, which it does behind the answer.
func get(nc *nats.Conn, js nats.JetStreamContext) error {
	const sent = 5 // two looks at the stream, the name, the consumer, and its end
	err := store(func(invoices nats.ObjectStore) error {
		object, err := invoices.GetBytes("a")
		if err == nil && len(object) != size {
			err = fmt.Errorf("%d bytes", len(object))
		}
		return err
	})(nc, js)
	for end := time.Now().Add(wait); err == nil && nc.Stats().OutMsgs < sent; {
		if time.Now().After(end) {
			err = fmt.Errorf("only %d messages sent", nc.Stats().OutMsgs)
		}
		time.Sleep(time.Millisecond)
	}
	return err
}

func list(invoices nats.ObjectStore) error {
	objects, err := invoices.List()
	if err == nil && len(objects) == 0 {
		err = errors.New("no object")
	}
	return err
}

func watch(invoices nats.ObjectStore) error {
	watcher, err := invoices.Watch()
	if err != nil {
		return err
	}
	select {
	case <-watcher.Updates():
		return watcher.Stop()
	case <-time.After(wait):
		return errors.New("nothing")
	}
}

func link(invoices nats.ObjectStore) error {
	object, err := invoices.GetInfo("a")
	if err != nil {
		return err
	}
	_, err = invoices.AddLink("link", object)
	return err
}

func remove(invoices nats.ObjectStore) error {
	return invoices.Delete("a")
}

func seal(invoices nats.ObjectStore) error {
	return invoices.Seal()
}

func found(nc *nats.Conn, _ nats.JetStreamContext) error {
	answer := func(request *micro.Request) { _ = request.Respond([]byte("y")) }
	config := micro.Config{
		Name: "quotes-api", Version: "1.0.0", Endpoint: micro.Endpoint{Subject: "quotes.get", Handler: answer},
	}
	if _, err := micro.AddService(nc, config); err != nil {
		return err
	}
	if err := nc.Flush(); err != nil {
		return err
	}
	_, err := nc.Request("quotes.get", []byte("x"), wait)
	return err
}

var steps = []struct {
	name string
	run  step
}{
	{"publish", publish},
	{"publish_async", publishAsync},
	{"fetch", fetch},
	{"subscribed", subscribed},
	{"found_by_subject", foundBySubject},
	{"own_durable", ownDurable},
	{"ordered_unnamed", orderedUnnamed},
	{"ephemeral_unnamed", ephemeralUnnamed},
	{"push", push},
	{"work", work},
	{"direct_get", directGet},
	{"store_put", store(put)},
	{"store_get", get},
	{"store_list", store(list)},
	{"store_watch", store(watch)},
	{"store_link", store(link)},
	{"store_delete", store(remove)},
	{"store_seal", store(seal)},
	{"found", found},
}

// a login is as whom a step runs.
type login struct {
	Step     string `json:"step"`
	Service  string `json:"service"`
	SeedFile string `json:"seed_file"`
}

// logins are the users of all steps, or the services in a file.
func logins(arguments []string) ([]login, error) {
	var all []login
	if len(arguments) == 0 {
		for _, step := range steps {
			all = append(all, login{Step: step.name, Service: step.name})
		}
		return all, nil
	}
	text, err := os.ReadFile(arguments[1])
	if err != nil {
		return nil, err
	}
	return all, json.Unmarshal(text, &all)
}

// alone runs a step on a connection of its own.
func alone(server string, as login) error {
	// The server's log has every violation, and the test reads that.
	quiet := nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})
	inbox := nats.CustomInboxPrefix("_INBOX." + as.Service)
	user := nats.UserInfo(as.Service, as.Service)
	if as.SeedFile != "" {
		var err error
		if user, err = nats.NkeyOptionFromSeed(as.SeedFile); err != nil {
			return err
		}
	}
	nc, err := nats.Connect(server, user, inbox, nats.NoReconnect(), quiet)
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := nc.JetStream(nats.MaxWait(wait))
	if err != nil {
		return err
	}
	for _, step := range steps {
		if step.name == as.Step {
			if err := step.run(nc, js); err != nil {
				return err
			}
		}
	}
	return nc.Flush()
}

func main() {
	arguments := os.Args[1:]
	if len(arguments) < 2 || arguments[0] != "--server" ||
		len(arguments) > 2 && (len(arguments) != 4 || arguments[2] != "--as") {
		fmt.Fprintln(os.Stderr, "usage: streams --server URL [--as FILE]")
		os.Exit(2)
	}
	all, err := logins(arguments[2:])
	if err != nil {
		panic(err)
	}
	for _, as := range all {
		var failure *string
		if err := alone(arguments[1], as); err != nil {
			text := err.Error()
			failure = &text
		}
		line, err := json.Marshal(map[string]interface{}{"step": as.Step, "error": failure})
		if err != nil {
			panic(err)
		}
		fmt.Println(string(line))
	}
}
