package frontend

import (
	"context"
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/runtime/registry"
)

// muteNetwork has a registry that takes connections and never says a word.
type muteNetwork struct{ ends []net.Conn }

func (m *muteNetwork) dial(context.Context, string, string) (net.Conn, error) {
	here, there := net.Pipe()
	m.ends = append(m.ends, there)
	go func() { // what is sent is taken
		buf := make([]byte, 1024)
		for {
			if _, err := there.Read(buf); err != nil {
				return
			}
		}
	}()
	return here, nil
}

func (m *muteNetwork) close() {
	for _, c := range m.ends {
		_ = c.Close()
	}
}

// TestInterruptWhileImagesAreResolved interrupts while a registry is silent: over HTTP,
// in the handshake of TLS, while a credential helper is asked, and while a node is
// asked. Compiling ends at that moment.
func TestInterruptWhileImagesAreResolved(t *testing.T) {
	for name, configure := range map[string]func(end chan struct{}, r *registry.Options, o *RegistryOptions){
		"http": func(_ chan struct{}, r *registry.Options, _ *RegistryOptions) {
			*r = r.Insecure("r.example")
		},
		"tls": func(chan struct{}, *registry.Options, *RegistryOptions) {},
		"helper": func(end chan struct{}, r *registry.Options, _ *RegistryOptions) {
			r.Credentials = func(string) (string, string, error) {
				<-end
				return "", "", nil
			}
		},
		"node": func(_ chan struct{}, _ *registry.Options, o *RegistryOptions) {
			o.Node = func(ctx context.Context, _ ImageRequest) (*Image, error) {
				<-ctx.Done()
				return nil, context.Cause(ctx)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := project(t, `
-- Dockerfile --
FROM r.example/base
RUN true
`, &ir.Target{Name: "default"})
			synctest.Test(t, func(t *testing.T) {
				end := make(chan struct{})
				defer close(end)
				network := &muteNetwork{}
				defer network.close()
				options := registry.Options{Dial: network.dial}
				var resolving RegistryOptions
				configure(end, &options, &resolving)
				client := registry.New(options)
				defer client.Close()
				resolving.Client = client

				gaveUp := errors.New("the user gave up")
				ctx, interrupt := context.WithCancelCause(t.Context())
				begun := time.Now()
				const after = 3 * time.Second // a node is asked by then
				time.AfterFunc(after, func() { interrupt(gaveUp) })
				_, err := Compile(ctx, p, Options{Resolver: NewRegistryResolver(resolving)})
				require.ErrorIs(t, err, gaveUp)
				require.Equal(t, after, time.Since(begun))
			})
		})
	}
}
