package reprisetest_test

import (
	"context"
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/stretchr/testify/require"

	"github.com/reprise-bus/reprise/handlers"
	"github.com/reprise-bus/reprise/reprisetest"
	"github.com/reprise-bus/reprise/store"
)

// What docs/testing.md shows is what stands here.
func TestTheSnippetsOfTheDocsAreTests(t *testing.T) {
	t.Parallel()
	docs, err := os.ReadFile("../docs/testing.md")
	require.NoError(t, err)
	here, err := os.ReadFile("docs_test.go")
	require.NoError(t, err)
	snippets := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllSubmatch(docs, -1)
	require.Len(t, snippets, strings.Count(string(docs), "```")/2)
	require.NotEmpty(t, snippets)
	for _, snippet := range snippets {
		require.Contains(t, string(here), "\n"+string(snippet[1]))
	}
}

// An application.

var errNoName = errors.New("the user has no name")

// outbox is a mail server that is down for so many mails.
type outbox struct {
	down int
	sent []string
}

func (o *outbox) send(text string) error {
	if o.down--; o.down >= 0 {
		return errors.New("451 the mail server is down")
	}
	o.sent = append(o.sent, text)
	return nil
}

func SendWelcomeEmail(mails *outbox) *handlers.Handler {
	return handlers.New("send-welcome-email", func(_ context.Context, e UserSignedUp) error {
		names := strings.Fields(e.Name)
		switch len(names) {
		case 0:
			return handlers.Permanent(errNoName)
		case 1:
			return mails.send("Dear " + names[0])
		default:
			return mails.send("Dear Ms or Mr " + names[len(names)-1])
		}
	})
}

func GrantTrial(b publisher) *handlers.Handler {
	return handlers.New("grant-trial", func(ctx context.Context, e UserSignedUp) error {
		return b.Publish(ctx, TrialGranted{UserID: e.ID})
	})
}

func SignUp(ctx context.Context, b publisher, name string) error {
	return b.Publish(ctx, UserSignedUp{ID: "42", Name: name})
}

type Charge struct{ Order string }

func (Charge) EventName() string { return "charge_card" }

type OrderPaid struct{ Order string }

func (OrderPaid) EventName() string { return "order.paid" }

func ChargeCard(b publisher) cqrs.CommandHandler {
	return cqrs.NewCommandHandler("charge-card", func(ctx context.Context, c *Charge) error {
		return b.Publish(ctx, OrderPaid{Order: c.Order})
	})
}

// Its tests.

func TestAUserWithOneName(t *testing.T) {
	mails := &outbox{}
	reprisetest.Replay(t, SendWelcomeEmail(mails), "testdata/4711.json")
	require.Equal(t, []string{"Dear Aristotle"}, mails.sent)
}

func TestAUserWithoutAName(t *testing.T) {
	result := reprisetest.Run(t, SendWelcomeEmail(&outbox{}), UserSignedUp{ID: "43"})
	require.Equal(t, store.Failed, result.Status)
	require.ErrorIs(t, result.Err, errNoName)
	require.Len(t, result.Attempts, 1, "it is permanent")
}

func TestTheMailServerIsDownForAWhile(t *testing.T) {
	mails := &outbox{down: 3}
	result := reprisetest.Run(t, SendWelcomeEmail(mails), UserSignedUp{ID: "42", Name: "Ada Lovelace"})
	require.Equal(t, store.Success, result.Status)
	require.Len(t, result.Attempts, 3, "those that failed")
	require.Equal(t, 21*time.Second, result.Waited, "1 s, 4 s and 16 s")
}

type publisher interface {
	Publish(ctx context.Context, events ...any) error
}

func TestSignUpPublishes(t *testing.T) {
	b := reprisetest.NewBus(t)
	require.NoError(t, SignUp(t.Context(), b, "Ada Lovelace"))
	require.Equal(t, "Ada Lovelace", reprisetest.RequirePublished[UserSignedUp](t, b).Name)
}

func TestSignUpIsWelcomed(t *testing.T) {
	mails := &outbox{}
	b := reprisetest.NewBus(t, SendWelcomeEmail(mails))
	require.NoError(t, b.Handle(GrantTrial(b))) // which publishes, too
	require.NoError(t, SignUp(t.Context(), b, "Ada Lovelace"))
	require.Equal(t, []string{"Dear Ms or Mr Lovelace"}, mails.sent)
	require.Len(t, reprisetest.Published[TrialGranted](b), 1)
}

func TestANamelessSignUp(t *testing.T) {
	b := reprisetest.NewBus(t, SendWelcomeEmail(&outbox{}))
	require.NoError(t, SignUp(t.Context(), b, ""))
	result := reprisetest.RequireFailed(t, b, "send-welcome-email")
	require.ErrorIs(t, result.Err, errNoName)
}

func TestAnOrderIsCharged(t *testing.T) {
	b := reprisetest.NewBus(t)
	require.NoError(t, b.HandleCommands(ChargeCard(b))) // which publishes OrderPaid
	require.NoError(t, b.Send(t.Context(), Charge{Order: "7"}))
	require.Equal(t, "7", reprisetest.RequireSent[Charge](t, b).Order)
	require.Equal(t, "7", reprisetest.RequirePublished[OrderPaid](t, b).Order)
}
